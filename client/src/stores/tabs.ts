import { defineStore } from 'pinia'
import { shallowRef } from 'vue'
import type { Message } from '@/core/conversation'

/** What the tabs of one user tell each other. */
export type TabNews =
  | { readonly kind: 'outbox changed' }
  | { readonly kind: 'sent'; readonly peer: string; readonly message: Message }
  | { readonly kind: 'left' }

/** The tabs of one user in one browser: one of them leads and sends the outbox; all hear of what changes. */
export const useTabs = defineStore('tabs', () => {
  const leads = shallowRef(false)
  let channel: BroadcastChannel | null = null
  let leadership: AbortController | null = null
  let resign: (() => void) | null = null

  function join(userID: string, hear: (news: TabNews) => void, lead: () => void): void {
    const name = `duologue-${userID}`
    channel = new BroadcastChannel(name)
    channel.onmessage = (event: MessageEvent<TabNews>) => hear(event.data)
    const begin = (): void => {
      leads.value = true
      lead()
    }
    // Web Locks need a secure context. Without them every tab sends; the ids keep each message single.
    if (!('locks' in navigator)) return begin()
    leadership = new AbortController()
    const held = new Promise<void>((resolve) => (resign = resolve))
    navigator.locks
      .request(name, { signal: leadership.signal }, async () => {
        begin()
        await held
      })
      .catch((error: unknown) => {
        if (!(error instanceof DOMException && error.name === 'AbortError')) throw error
      })
  }

  function tell(news: TabNews): void {
    channel?.postMessage(news)
  }

  function part(): void {
    leads.value = false
    channel?.close()
    channel = null
    leadership?.abort()
    resign?.()
  }

  return { leads, join, tell, part }
})
