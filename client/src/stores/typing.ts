import { defineStore } from 'pinia'
import { shallowReactive } from 'vue'
import { useLink } from './link'

/** Who is typing to us, and our own typing told at most as often as the server asks for. Volatile on both sides. */
export const useTyping = defineStore('typing', () => {
  const link = useLink()
  const now = shallowReactive(new Set<string>())
  const expiries = new Map<string, ReturnType<typeof setTimeout>>()
  const told = new Map<string, number>()

  function heard(from: string): void {
    now.add(from)
    clearTimeout(expiries.get(from))
    expiries.set(from, setTimeout(() => stopped(from), link.limits.typingExpires))
  }

  function stopped(from: string): void {
    now.delete(from)
    clearTimeout(expiries.get(from))
    expiries.delete(from)
  }

  async function tell(to: string): Promise<void> {
    const at = performance.now()
    if (link.state !== 'online' || at - (told.get(to) ?? -Infinity) < link.limits.typingRepeat) return
    told.set(to, at)
    // A lost hint of typing is no loss.
    await link.request('typing', { to }).catch(() => undefined)
  }

  /** A message was sent: the next key press is new typing. */
  function done(to: string): void {
    told.delete(to)
  }

  function clear(): void {
    for (const from of [...now]) stopped(from)
    told.clear()
  }

  return { now, heard, stopped, tell, done, clear }
})
