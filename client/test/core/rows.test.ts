import { expect, test } from 'vitest'
import type { Message } from '@/core/conversation'
import type { OutboxEntry } from '@/core/outbox'
import { rowsOf } from '@/core/rows'

const HOUR = 3_600_000
const sameDay = (a: number, b: number): boolean => Math.floor(a / (24 * HOUR)) === Math.floor(b / (24 * HOUR))

function message(seq: number, from: string, at: number): Message {
  return { id: `id ${seq}`, seq, at, from, content: '' }
}

test('days, the mark of the unread, and groups', () => {
  const messages = [message(1, 'me', 0), message(2, 'me', 1_000), message(3, 'you', HOUR), message(4, 'you', 25 * HOUR)]
  const rows = rowsOf(messages, [], 'me', 3, sameDay)
  expect(rows.map((row) => (row.kind === 'message' ? `${row.own ? 'own' : 'their'}${row.opens ? ' opens' : ''}` : row.kind))).toEqual([
    'day', 'own opens', 'own', 'unread', 'their opens', 'day', 'their opens',
  ])
})

test('a message keeps its row when it is acknowledged', () => {
  const entry: OutboxEntry = { order: 1, id: 'id 1', to: 'you', content: '', at: 5, failure: null }
  const waiting = rowsOf([], [entry], 'me', null, sameDay)
  const stored = rowsOf([message(1, 'me', 6)], [], 'me', null, sameDay)
  expect(stored.map((row) => row.key)).toEqual(waiting.map((row) => row.key))
})

test('two people may use one id', () => {
  const keys = rowsOf([message(1, 'me', 0), { ...message(2, 'you', 0), id: 'id 1' }], [], 'me', null, sameDay).map((row) => row.key)
  expect(new Set(keys).size).toBe(keys.length)
})
