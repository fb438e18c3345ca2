import { afterEach, expect, test, vi } from 'vitest'
import { Manager } from 'socket.io-client'
import { Connection } from '@/api/connection'

const nothing = (): void => {}
const handlers = {
  session: nothing, sync: nothing, 'private message': nothing, receipt: nothing, typing: nothing,
  'user connected': nothing, 'user disconnected': nothing, server: nothing,
}

afterEach(() => vi.restoreAllMocks())

/** The pause, in milliseconds, that the library would make before its first attempt, and its longest. */
function pauses(told: number[]): [number, number] {
  const first = vi.spyOn(Manager.prototype, 'reconnectionDelay')
  const longest = vi.spyOn(Manager.prototype, 'reconnectionDelayMax')
  const connection = new Connection(() => ({ username: 'ann', sync: { since: null } }), handlers, {
    up: nothing, down: nothing, refused: nothing,
  })
  told.forEach((time) => connection.returnWithin(time))
  return [first.mock.lastCall?.[0] ?? NaN, longest.mock.lastCall?.[0] ?? NaN]
}

test('where there are few, everybody comes back after the usual pause', () => {
  expect(pauses([0])).toEqual([500, 5_000])
})

test('where there are many, they come back within the time that they were told, each at a moment of its own', () => {
  const drawn = Array.from({ length: 50 }, () => pauses([20_000])[0])
  expect(Math.min(...drawn)).toBeGreaterThanOrEqual(500)
  expect(Math.max(...drawn)).toBeLessThanOrEqual(20_500)
  expect(Math.max(...drawn) - Math.min(...drawn)).toBeGreaterThan(5_000)
})

test('the longest pause is never shorter than the first', () => {
  vi.spyOn(Math, 'random').mockReturnValue(0.999)
  const [first, longest] = pauses([20_000])
  expect(longest).toBe(first)
})

test('what was told last counts', () => {
  vi.spyOn(Math, 'random').mockReturnValue(0.5)
  expect(pauses([20_000, 0])).toEqual([500, 5_000])
})
