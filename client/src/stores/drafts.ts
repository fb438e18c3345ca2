import { defineStore } from 'pinia'
import { shallowReactive } from 'vue'
import { useIdentity } from './identity'

/** Unsent text per conversation, kept on this device and the same in every tab. */
export const useDrafts = defineStore('drafts', () => {
  const identity = useIdentity()
  const drafts = shallowReactive(new Map<string, string>())

  function prefix(): string {
    return `duologue:draft:${identity.identity?.userID ?? ''}:`
  }

  function get(peer: string): string {
    return drafts.get(peer) ?? localStorage.getItem(prefix() + peer) ?? ''
  }

  function set(peer: string, text: string): void {
    drafts.set(peer, text)
    try {
      if (text) localStorage.setItem(prefix() + peer, text)
      else localStorage.removeItem(prefix() + peer)
    } catch {
      // The storage is full: the draft lives as long as the tab.
    }
  }

  /** Forgets the drafts of this user, before the user is forgotten. */
  function clear(): void {
    drafts.clear()
    for (const key of Object.keys(localStorage)) if (key.startsWith(prefix())) localStorage.removeItem(key)
  }

  addEventListener('storage', (event) => {
    if (event.key?.startsWith(prefix())) drafts.set(event.key.slice(prefix().length), event.newValue ?? '')
  })

  return { get, set, clear }
})
