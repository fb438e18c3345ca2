/** A piece of a message's text: plain, or a link to an http(s) address. */
export type Segment = { readonly text: string; readonly href: string | null }

// Neither white space, quotes and brackets of mark-up, nor characters that are invisible or turn the direction around.
const CANDIDATE = /\bhttps?:\/\/[^\s<>"'`\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff]+/giu
const TRAILING = /[.,;:!?\u2026)\]}*_~]$/u
const CLOSERS: Readonly<Record<string, string>> = { ')': '(', ']': '[', '}': '{' }

/** Splits a text into plain pieces and links. The pieces joined are the text, but for look-alike hosts in links, which
 * are spelt as the address that they really lead to. */
export function linkify(text: string): Segment[] {
  const segments: Segment[] = []
  let end = 0
  for (const match of text.matchAll(CANDIDATE)) {
    const address = withoutTrailing(match[0])
    const url = parse(address)
    if (!url) continue
    if (match.index > end) segments.push({ text: text.slice(end, match.index), href: null })
    segments.push({ text: url.hostname.includes('xn--') ? url.href : address, href: url.href })
    end = match.index + address.length
  }
  if (end < text.length) segments.push({ text: text.slice(end), href: null })
  return segments
}

/** Punctuation at the end belongs to the sentence, a bracket only if it was not opened within the address. */
function withoutTrailing(address: string): string {
  let kept = address
  while (TRAILING.test(kept)) {
    const opener = CLOSERS[kept.at(-1)!]
    if (opener && count(kept, opener) >= count(kept, kept.at(-1)!)) break
    kept = kept.slice(0, -1)
  }
  return kept
}

function count(text: string, character: string): number {
  return text.split(character).length - 1
}

function parse(address: string): URL | null {
  const url = URL.parse(address)
  // Credentials in an address serve to disguise its host.
  return url && /^https?:$/.test(url.protocol) && !url.username && !url.password ? url : null
}
