import type { Message } from './conversation'

/** Which part of a run is rendered: seqs from `lo` to `hi`; `hi` null follows the end as it grows. */
export interface Window {
  readonly lo: number
  readonly hi: number | null
}

/** Rendered messages at most, and by how many the window moves. */
export const WINDOW_SIZE = 150
export const WINDOW_STEP = 50

export const AT_END: Window = { lo: Infinity, hi: null }

/** The window with its numbers within the run, and never larger than its size. */
export function fit(window: Window, run: readonly Message[], atEnd: boolean): Window {
  const first = run[0]?.seq ?? 1
  const last = run.at(-1)?.seq ?? 0
  const lo = Math.max(first, Math.min(window.lo, last - WINDOW_STEP + 1))
  const hi = window.hi !== null && window.hi < last ? window.hi : null
  if ((hi ?? last) - lo < WINDOW_SIZE) return { lo, hi }
  // Somebody who reads further up keeps what they read; at the end the oldest rows go.
  return hi === null && atEnd ? { lo: last - WINDOW_SIZE + 1, hi } : { lo, hi: lo + WINDOW_SIZE - 1 }
}

/** One step towards older messages; null where the run begins and more has to be loaded. */
export function stepUp(window: Window, run: readonly Message[]): Window | null {
  const first = run[0]?.seq ?? 1
  if (window.lo <= first) return null
  return fit({ lo: Math.max(first, window.lo - WINDOW_STEP), hi: window.hi }, run, false)
}

export function stepDown(window: Window, run: readonly Message[]): Window {
  if (window.hi === null) return window
  const hi = window.hi + WINDOW_STEP
  return fit({ lo: Math.max(window.lo, hi - WINDOW_SIZE + 1), hi }, run, false)
}

export function within(window: Window, run: readonly Message[]): readonly Message[] {
  const first = run[0]?.seq ?? 1
  return run.slice(Math.max(0, window.lo - first), window.hi === null ? undefined : window.hi - first + 1)
}
