import { describe, expect, test } from 'vitest'
import {
  addMessages, applyHead, byRecency, emptyConversation, mergeBySeq, missingTail, moveMine, moveTheirs, olderThanRun, tailRun,
  tickOf, trim, unreadCount, type Conversation, type Message,
} from '@/core/conversation'

const ME = '00000000000000aa'
const PEER = '00000000000000bb'

function message(seq: number, from = PEER): Message {
  return { id: `id ${seq}`, seq, at: 1_000 * seq, from, content: `text ${seq}` }
}

function messages(...seqs: number[]): Message[] {
  return seqs.map((seq) => message(seq))
}

const seqs = (list: readonly Message[]): number[] => list.map((m) => m.seq)

/** Mulberry32: a small generator of random numbers that repeats from its seed. */
function generator(seed: number): () => number {
  return () => {
    seed = (seed + 0x6d2b79f5) | 0
    let t = Math.imul(seed ^ (seed >>> 15), 1 | seed)
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32
  }
}

describe('merging', () => {
  test('keeps the order of seqs and each seq once', () => {
    expect(seqs(mergeBySeq(messages(1, 2, 5), messages(4, 2, 3)))).toEqual([1, 2, 3, 4, 5])
  })

  test('any order, grouping and repetition of the same news gives the same conversation', () => {
    const seed = Number(process.env['SEED'] ?? Math.floor(Math.random() * 2 ** 32))
    const random = generator(seed)
    for (let round = 0; round < 200; round += 1) {
      const all = Array.from({ length: 1 + Math.floor(random() * 12) }, (_, i) => message(i + 1, random() < 0.5 ? ME : PEER))
      const receipts = [1, 2, 3].map(() => Math.floor(random() * all.length))
      const news: ((c: Conversation) => Conversation)[] = [
        ...all.map((m) => (c: Conversation) => addMessages(c, [m])),
        (c) => addMessages(c, all.slice(Math.floor(random() * all.length))),
        ...receipts.map((seq) => (c: Conversation) => moveTheirs(c, { received: seq, read: 0 })),
        ...receipts.map((seq) => (c: Conversation) => moveMine(c, { received: seq, read: seq })),
      ]
      const inOrder = news.reduce((c, act) => act(c), emptyConversation(PEER))
      const shuffled = [...news, ...news].sort(() => random() - 0.5).reduce((c, act) => act(c), emptyConversation(PEER))
      expect(shuffled, `repeat with SEED=${seed}`).toEqual(inOrder)
      expect(seqs(shuffled.messages), `repeat with SEED=${seed}`).toEqual(seqs(all))
    }
  })
})

describe('unread and ticks', () => {
  test('what the other side sends is unread, what one sends oneself reads everything before it', () => {
    let c = addMessages(emptyConversation(PEER), messages(1, 2, 3))
    expect(unreadCount(c)).toBe(3)
    c = addMessages(c, [message(4, ME)])
    expect(unreadCount(c)).toBe(0)
    c = addMessages(c, messages(5))
    expect(unreadCount(c)).toBe(1)
  })

  test('unread counts what exists, not what is held', () => {
    const c = applyHead(addMessages(emptyConversation(PEER), messages(300)), {
      seq: 300, mine: { received: 10, read: 10 }, theirs: { received: 300, read: 300 },
    })
    expect(unreadCount(c)).toBe(290)
  })

  test('positions never go back', () => {
    const c = moveMine(moveMine(emptyConversation(PEER), { received: 5, read: 5 }), { received: 3, read: 1 })
    expect(c.mine).toEqual({ received: 5, read: 5 })
  })

  test('a tick follows the positions of the other side', () => {
    let c = addMessages(emptyConversation(PEER), [message(1, ME), message(2, ME)])
    expect(tickOf(c, 2)).toBe('sent')
    c = moveTheirs(c, { received: 2, read: 1 })
    expect([tickOf(c, 1), tickOf(c, 2)]).toEqual(['read', 'delivered'])
  })

  test('an answer shows that the other side has read', () => {
    const c = addMessages(emptyConversation(PEER), [message(1, ME), message(2, PEER)])
    expect(tickOf(c, 1)).toBe('read')
  })

  test('a message to oneself is never unread', () => {
    expect(unreadCount(addMessages(emptyConversation(ME, true), [message(1, ME)]))).toBe(0)
  })
})

describe('holes', () => {
  test('only the run up to the newest is shown', () => {
    expect(seqs(tailRun(messages(1, 2, 5, 6, 7)))).toEqual([5, 6, 7])
    expect(seqs(tailRun(messages(1, 2)))).toEqual([1, 2])
    expect(tailRun([])).toEqual([])
  })

  test('the next page up ends where the run begins, until the conversation begins', () => {
    expect(olderThanRun(messages(5, 6))).toBe(5)
    expect(olderThanRun(messages(1, 2))).toBeNull()
    expect(olderThanRun([])).toBeNull()
  })

  test('a head beyond what is held asks for the latest', () => {
    const held = addMessages(emptyConversation(PEER), messages(1))
    const ahead = applyHead(held, { seq: 9, mine: held.mine, theirs: held.theirs })
    expect([missingTail(held), missingTail(ahead)]).toEqual([null, 'latest'])
  })

  test('trimming keeps the latest and the head', () => {
    const c = trim(addMessages(emptyConversation(PEER), messages(1, 2, 3)), 2)
    expect([seqs(c.messages), c.seq, c.last?.seq]).toEqual([[2, 3], 3, 3])
  })
})

test('the most recently changed conversation comes first', () => {
  const older = addMessages(emptyConversation('a'), messages(1))
  const newer = addMessages(emptyConversation('b'), messages(2))
  expect([emptyConversation('c'), older, newer].sort(byRecency).map((c) => c.peer)).toEqual(['b', 'a', 'c'])
})
