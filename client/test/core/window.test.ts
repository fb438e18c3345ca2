import { expect, test } from 'vitest'
import type { Message } from '@/core/conversation'
import { AT_END, fit, stepDown, stepUp, within, WINDOW_SIZE, WINDOW_STEP } from '@/core/window'

function run(first: number, last: number): Message[] {
  return Array.from({ length: last - first + 1 }, (_, i) => ({ id: `${i}`, seq: first + i, at: 0, from: 'a', content: '' }))
}

test('at the end the latest step is shown, and a growing end drops the top', () => {
  const view = fit(AT_END, run(1, 400), true)
  expect(view).toEqual({ lo: 400 - WINDOW_STEP + 1, hi: null })
  expect(fit(view, run(1, 600), true)).toEqual({ lo: 600 - WINDOW_SIZE + 1, hi: null })
})

test('a reader further up keeps what they read while the end grows', () => {
  const view = fit({ lo: 300, hi: null }, run(1, 400), false)
  expect(fit(view, run(1, 600), false)).toEqual({ lo: 300, hi: 300 + WINDOW_SIZE - 1 })
})

test('going up to the beginning and down again shows every message, never more than the size', () => {
  const all = run(1, 1_000)
  const seen = new Set<number>()
  let view = fit(AT_END, all, true)
  for (let up = stepUp(view, all); up; up = stepUp(view, all)) {
    view = up
    const shown = within(view, all)
    expect(shown.length).toBeLessThanOrEqual(WINDOW_SIZE)
    shown.forEach((m) => seen.add(m.seq))
  }
  expect(seen.size).toBe(1_000)
  while (view.hi !== null) view = stepDown(view, all)
  expect(within(view, all).at(-1)?.seq).toBe(1_000)
})

test('a run that does not begin at 1', () => {
  const part = run(951, 1_000)
  expect(within(fit(AT_END, part, true), part)).toHaveLength(50)
  expect(stepUp(fit(AT_END, part, true), part)).toBeNull()
})
