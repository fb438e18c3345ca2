import { defineStore } from 'pinia'
import { shallowReactive, shallowRef } from 'vue'
import type { WirePerson } from '@/api/contract'
import { useLink } from './link'

export interface Person {
  readonly userID: string
  readonly username: string
  readonly connected: boolean
  readonly lastSeen: number | null
}

/** Everybody whom this client has heard of, and the directory as far as it was paged. */
export const usePeople = defineStore('people', () => {
  const link = useLink()
  const known = shallowReactive(new Map<string, Person>())
  /** The ids in the directory's pages so far. */
  const listed = shallowRef<readonly string[]>([])
  /** Where the directory goes on; null at its end. */
  const next = shallowRef<string | null>(null)
  let watched = ''

  function learn(person: WirePerson): void {
    const { userID, username, connected } = person
    const lastSeen = person.lastSeen ?? known.get(userID)?.lastSeen ?? null
    known.set(userID, { userID, username, connected, lastSeen })
  }

  /** A name from disk: whether the person is there now isn't known yet. */
  function remember(userID: string, username: string): void {
    if (!known.has(userID)) known.set(userID, { userID, username, connected: false, lastSeen: null })
  }

  function left(userID: string): void {
    const person = known.get(userID)
    if (person) known.set(userID, { ...person, connected: false, lastSeen: Date.now() })
  }

  function nameOf(userID: string): string {
    return known.get(userID)?.username ?? 'Somebody'
  }

  /** Reads the directory again, as far as it had been paged. */
  async function refresh(): Promise<void> {
    const wanted = Math.max(1, listed.value.length)
    const found: string[] = []
    let after: string | null = null
    do {
      const page = await directoryPage(after)
      found.push(...page.ids)
      after = page.next
    } while (after !== null && found.length < wanted)
    listed.value = found
    next.value = after
  }

  async function more(): Promise<void> {
    if (next.value === null) return
    const page = await directoryPage(next.value)
    listed.value = [...new Set([...listed.value, ...page.ids])]
    next.value = page.next
  }

  async function directoryPage(after: string | null): Promise<{ ids: string[]; next: string | null }> {
    const limit = link.limits.maxPage
    const page = await link.request('directory', after === null ? { limit } : { after, limit })
    page.people.forEach(learn)
    return { ids: page.people.map((person) => person.userID), next: page.next }
  }

  /** Asks for the presence of those shown. The same set again costs nothing until `forgetWatch`. */
  async function watch(users: readonly string[]): Promise<void> {
    const some = users.slice(0, link.limits.maxWatch)
    const key = [...some].sort().join()
    if (key === watched) return
    watched = key
    try {
      const { people } = await link.request('watch', { users: some })
      people.forEach(learn)
    } catch (error) {
      watched = ''
      throw error
    }
  }

  /** A new connection watches nobody. */
  function forgetWatch(): void {
    watched = ''
  }

  function clear(): void {
    known.clear()
    listed.value = []
    next.value = null
    watched = ''
  }

  return { known, listed, next, learn, remember, left, nameOf, refresh, more, watch, forgetWatch, clear }
})
