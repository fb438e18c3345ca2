import { expect, test } from 'vitest'
import { nextToSend, retryDelay, waitingFor, type OutboxEntry } from '@/core/outbox'

function entry(order: number, to: string, failed = false): OutboxEntry {
  const failure = failed ? { code: 'too long', sentence: 'Too long.' } : null
  return { order, id: `id ${order}`, to, content: `text ${order}`, at: order, failure }
}

const orders = (entries: readonly OutboxEntry[]): number[] => entries.map((e) => e.order)

test('one message of each conversation at a time, the oldest first', () => {
  const entries = [entry(4, 'b'), entry(3, 'a'), entry(1, 'a'), entry(2, 'b')]
  expect(orders(nextToSend(entries, new Set(), 8))).toEqual([1, 2])
  expect(orders(nextToSend(entries, new Set(['a']), 8))).toEqual([2])
})

test('no more under way than there is room for', () => {
  expect(orders(nextToSend([entry(1, 'a'), entry(2, 'b'), entry(3, 'c')], new Set(), 2))).toEqual([1, 2])
  expect(nextToSend([entry(1, 'a')], new Set(), 0)).toEqual([])
})

test('a refused message does not hold up those behind it', () => {
  expect(orders(nextToSend([entry(1, 'a', true), entry(2, 'a')], new Set(), 8))).toEqual([2])
})

test('what is stored already does not wait any more', () => {
  expect(orders(waitingFor([entry(2, 'a'), entry(1, 'a'), entry(3, 'b')], 'a', new Set(['id 1'])))).toEqual([2])
})

test('retries wait longer and longer, up to a bound, or as the server asks', () => {
  const delays = [1, 2, 3, 4, 5, 6, 7].map((attempt) => retryDelay(attempt, undefined, () => 0.5))
  expect(delays).toEqual([1, 2, 4, 8, 16, 30, 30])
  expect([retryDelay(1, 3.5), retryDelay(1, 1e9)]).toEqual([3.5, 60])
})
