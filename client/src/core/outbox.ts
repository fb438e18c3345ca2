/** The outbox: messages that the server has not acknowledged yet, in the order in which they were written. Pure. */

export interface OutboxEntry {
  /** The place in the queue: grows with each message written on this device, across tabs. */
  readonly order: number
  /** The message's UUID: the same in every attempt, so that a retry never duplicates. */
  readonly id: string
  readonly to: string
  readonly content: string
  readonly at: number
  /** Why the server will not take it, in a sentence; null while it waits to be sent. */
  readonly failure: { readonly code: string; readonly sentence: string } | null
}

/** The next message of each conversation: one at a time, so that they arrive in the order in which they were written. */
export function nextToSend(entries: readonly OutboxEntry[], busy: ReadonlySet<string>, room: number): OutboxEntry[] {
  const next = new Map<string, OutboxEntry>()
  for (const entry of inOrder(entries)) {
    if (next.size >= room) break
    if (entry.failure === null && !busy.has(entry.to) && !next.has(entry.to)) next.set(entry.to, entry)
  }
  return [...next.values()]
}

/** What waits for one conversation and isn't among the stored messages, whose ids are given. */
export function waitingFor(entries: readonly OutboxEntry[], to: string, stored: ReadonlySet<string>): OutboxEntry[] {
  return inOrder(entries).filter((entry) => entry.to === to && !stored.has(entry.id))
}

/** Seconds to wait before attempt number `attempt` (from 1): doubling, at most half a minute, or what the server asked for. */
export function retryDelay(attempt: number, asked: number | undefined, random: () => number = Math.random): number {
  if (asked !== undefined) return Math.min(asked, 60)
  return Math.min(30, 2 ** (attempt - 1)) * (0.75 + random() / 2)
}

function inOrder(entries: readonly OutboxEntry[]): OutboxEntry[] {
  return [...entries].sort((a, b) => a.order - b.order)
}
