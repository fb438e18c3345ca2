import type { Message } from './conversation'
import type { OutboxEntry } from './outbox'

/** Messages of one side this close in time stand together, in milliseconds. */
const TOGETHER = 5 * 60_000

export type Item =
  | { readonly kind: 'stored'; readonly message: Message }
  | { readonly kind: 'waiting'; readonly entry: OutboxEntry }

export type Row =
  | { readonly kind: 'day'; readonly key: string; readonly at: number }
  | { readonly kind: 'unread'; readonly key: string }
  | {
      readonly kind: 'message'
      readonly key: string
      readonly item: Item
      readonly own: boolean
      /** The first of a group by one side within a few minutes. */
      readonly opens: boolean
    }

/** What a conversation shows, from top to bottom: day separators, the mark where the unread began, and the messages. */
export function rowsOf(
  messages: readonly Message[],
  waiting: readonly OutboxEntry[],
  me: string,
  unreadFrom: number | null,
  sameDay: (a: number, b: number) => boolean,
): Row[] {
  const items: Item[] = [
    ...messages.map((message) => ({ kind: 'stored' as const, message })),
    ...waiting.map((entry) => ({ kind: 'waiting' as const, entry })),
  ]
  const rows: Row[] = []
  items.forEach((item, index) => {
    const before = items[index - 1]
    const newDay = !before || !sameDay(atOf(before), atOf(item))
    const unread = item.kind === 'stored' && item.message.seq === unreadFrom
    if (newDay) rows.push({ kind: 'day', key: `day ${keyOf(item, me)}`, at: atOf(item) })
    if (unread) rows.push({ kind: 'unread', key: 'unread' })
    const own = ownBy(item, me)
    rows.push({
      kind: 'message',
      key: keyOf(item, me),
      item,
      own,
      opens: newDay || unread || !together(before, item, me),
    })
  })
  return rows
}

function together(a: Item, b: Item, me: string): boolean {
  return ownBy(a, me) === ownBy(b, me) && atOf(b) - atOf(a) < TOGETHER
}

function ownBy(item: Item, me: string): boolean {
  return item.kind === 'waiting' || item.message.from === me
}

function atOf(item: Item): number {
  return item.kind === 'waiting' ? item.entry.at : item.message.at
}

/** The same while a message waits and after it was stored. An id is unique per sender only, hence the side. */
function keyOf(item: Item, me: string): string {
  return `${ownBy(item, me) ? 'own' : 'their'} ${item.kind === 'waiting' ? item.entry.id : item.message.id}`
}
