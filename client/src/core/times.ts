/** Days and times for people, by the device's language and time zone. */

const clock = new Intl.DateTimeFormat(undefined, { hour: 'numeric', minute: '2-digit' })
const full = new Intl.DateTimeFormat(undefined, { dateStyle: 'full', timeStyle: 'short' })
const weekday = new Intl.DateTimeFormat(undefined, { weekday: 'long' })
const dayOfYear = new Intl.DateTimeFormat(undefined, { day: 'numeric', month: 'long' })
const dayAndYear = new Intl.DateTimeFormat(undefined, { day: 'numeric', month: 'long', year: 'numeric' })
const brief = new Intl.DateTimeFormat(undefined, { day: 'numeric', month: 'short' })
const relative = new Intl.RelativeTimeFormat(undefined, { numeric: 'auto' })

const DAY = 86_400_000

export function timeOfDay(at: number): string {
  return clock.format(at)
}

export function fullTime(at: number): string {
  return full.format(at)
}

export function isoTime(at: number): string {
  return new Date(at).toISOString()
}

export function sameDay(a: number, b: number): boolean {
  return new Date(a).toDateString() === new Date(b).toDateString()
}

/** "Today", "Yesterday", "Monday", "3 May", "3 May 2019". */
export function dayName(at: number, now: number): string {
  const days = daysAgo(at, now)
  if (days === 0 || days === 1) return capital(relative.format(-days, 'day'))
  if (days > 1 && days < 7) return weekday.format(at)
  return (new Date(at).getFullYear() === new Date(now).getFullYear() ? dayOfYear : dayAndYear).format(at)
}

/** For a list: the time today, else the day. */
export function briefTime(at: number, now: number): string {
  const days = daysAgo(at, now)
  if (days === 0) return clock.format(at)
  return days === 1 ? capital(relative.format(-1, 'day')) : brief.format(at)
}

export function agoText(at: number, now: number): string {
  const minutes = Math.round((now - at) / 60_000)
  if (minutes < 1) return relative.format(0, 'second')
  if (minutes < 60) return relative.format(-minutes, 'minute')
  if (minutes < 60 * 24) return relative.format(-Math.round(minutes / 60), 'hour')
  return relative.format(-daysAgo(at, now), 'day')
}

function daysAgo(at: number, now: number): number {
  return Math.round((startOfDay(now) - startOfDay(at)) / DAY)
}

function startOfDay(at: number): number {
  return new Date(at).setHours(0, 0, 0, 0)
}

function capital(text: string): string {
  return text.charAt(0).toLocaleUpperCase() + text.slice(1)
}
