/**
 * The client's timeline: what one side holds of a conversation, and how events change it. Pure: values in, values out.
 *
 * Seqs count from 1 without gaps, so the held messages themselves tell what is missing. Every function is idempotent and
 * takes its events in any order, because the same message may come by sync, live, by history, by an ack and from disk.
 */

export interface Message {
  readonly id: string
  readonly seq: number
  readonly at: number
  readonly from: string
  readonly content: string
}

/** How far one side has come: `read` <= `received`. Both only grow. */
export interface Positions {
  readonly received: number
  readonly read: number
}

export interface Conversation {
  readonly peer: string
  /** A conversation with oneself: both sides are one. */
  readonly self: boolean
  /** The last seq that is known to exist. */
  readonly seq: number
  readonly mine: Positions
  readonly theirs: Positions
  /** Held messages, ascending by seq, each seq once; there may be holes. */
  readonly messages: readonly Message[]
  /** The latest message held, also after `messages` was trimmed. */
  readonly last: Message | null
}

export type Tick = 'sent' | 'delivered' | 'read'

const NOWHERE: Positions = { received: 0, read: 0 }

export function emptyConversation(peer: string, self = false): Conversation {
  return { peer, self, seq: 0, mine: NOWHERE, theirs: NOWHERE, messages: [], last: null }
}

/** The union of two ascending lists, each seq once; where both hold a seq, `added` wins. */
export function mergeBySeq(held: readonly Message[], added: readonly Message[]): readonly Message[] {
  const last = held.at(-1)
  if (!last) return sortedBySeq(added)
  if (added.length === 1 && added[0]!.seq > last.seq) return [...held, added[0]!]
  const bySeq = new Map(held.map((message) => [message.seq, message]))
  for (const message of added) bySeq.set(message.seq, message)
  return sortedBySeq([...bySeq.values()])
}

/** Adds messages of the conversation, whatever way they came. Sending moves the sender's own positions to the message. */
export function addMessages(conversation: Conversation, added: readonly Message[]): Conversation {
  if (added.length === 0) return conversation
  const { peer, self } = conversation
  const newest = added.reduce((a, b) => (b.seq > a.seq ? b : a))
  const sentByThem = Math.max(0, ...added.filter((m) => m.from === peer).map((m) => m.seq))
  const sentByMe = Math.max(0, ...added.filter((m) => self || m.from !== peer).map((m) => m.seq))
  return {
    ...conversation,
    seq: Math.max(conversation.seq, newest.seq),
    mine: advance(conversation.mine, { received: sentByMe, read: sentByMe }),
    theirs: advance(conversation.theirs, { received: sentByThem, read: sentByThem }),
    messages: mergeBySeq(conversation.messages, added),
    last: conversation.last && conversation.last.seq > newest.seq ? conversation.last : newest,
  }
}

/** Takes over what the server says of the head: the last seq and both sides' positions. */
export function applyHead(
  conversation: Conversation,
  head: { seq: number; mine: Positions; theirs: Positions },
): Conversation {
  return {
    ...conversation,
    seq: Math.max(conversation.seq, head.seq),
    mine: advance(conversation.mine, head.mine),
    theirs: advance(conversation.theirs, head.theirs),
  }
}

export function moveMine(conversation: Conversation, to: Positions): Conversation {
  return { ...conversation, mine: advance(conversation.mine, to) }
}

export function moveTheirs(conversation: Conversation, to: Positions): Conversation {
  return { ...conversation, theirs: advance(conversation.theirs, to) }
}

export function unreadCount(conversation: Conversation): number {
  return Math.max(0, conversation.seq - conversation.mine.read)
}

/** How far one's own message has come. */
export function tickOf(conversation: Conversation, seq: number): Tick {
  if (conversation.theirs.read >= seq) return 'read'
  return conversation.theirs.received >= seq ? 'delivered' : 'sent'
}

/** The messages up to the newest held without a hole between them: what can be shown without hiding something. */
export function tailRun(messages: readonly Message[]): readonly Message[] {
  let start = messages.length - 1
  while (start > 0 && messages[start - 1]!.seq === messages[start]!.seq - 1) start -= 1
  return start <= 0 ? messages : messages.slice(start)
}

/** What to ask `history` for, so that the end of the conversation is held; null when it is. */
export function missingTail(conversation: Conversation): 'latest' | null {
  return (conversation.messages.at(-1)?.seq ?? 0) < conversation.seq ? 'latest' : null
}

/** The `before` with which `history` brings what precedes the shown run; null at the beginning of the conversation. */
export function olderThanRun(run: readonly Message[]): number | null {
  const first = run[0]
  return first && first.seq > 1 ? first.seq : null
}

/** Keeps the latest `count` messages, to bound what an unopened conversation costs. */
export function trim(conversation: Conversation, count: number): Conversation {
  if (conversation.messages.length <= count) return conversation
  return { ...conversation, messages: conversation.messages.slice(-count) }
}

/** The most recently changed first; a conversation without a known message comes last. */
export function byRecency(a: Conversation, b: Conversation): number {
  return (b.last?.at ?? 0) - (a.last?.at ?? 0) || (a.peer < b.peer ? -1 : 1)
}

function sortedBySeq(messages: readonly Message[]): readonly Message[] {
  return [...messages].sort((a, b) => a.seq - b.seq)
}

/** Positions only ever grow, whatever order the news of them comes in. */
function advance(held: Positions, to: Positions): Positions {
  const read = Math.max(held.read, to.read)
  const received = Math.max(held.received, to.received, read)
  return read === held.read && received === held.received ? held : { received, read }
}
