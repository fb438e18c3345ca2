import { defineStore } from 'pinia'
import { Refusal } from '@/api/connection'
import { unreadCount } from '@/core/conversation'
import { useConversations } from './conversations'
import { useLink } from './link'

/** Arrivals within this many milliseconds are reported together. */
const GATHER = 60

/** Tells the server what has been received and read: the latest position only, one request at a time. */
export const useMarks = defineStore('marks', () => {
  const conversations = useConversations()
  const link = useLink()
  const due = new Set<string>()
  let timer: ReturnType<typeof setTimeout> | undefined
  let running = false

  function mark(peer: string): void {
    due.add(peer)
    timer ??= setTimeout(() => {
      timer = undefined
      void run()
    }, GATHER)
  }

  function markAll(): void {
    for (const conversation of conversations.all.values()) {
      if (conversation.mine.received < conversation.seq || unreadCount(conversation) > 0) mark(conversation.peer)
    }
  }

  async function run(): Promise<void> {
    if (running) return
    running = true
    try {
      for (const peer of due) {
        // What is still due when the connection comes back, `markAll` finds.
        due.delete(peer)
        if (link.state === 'online') await report(peer)
      }
    } finally {
      running = false
    }
  }

  async function report(peer: string): Promise<void> {
    const { mine, messages } = conversations.get(peer)
    const seq = messages.at(-1)?.seq ?? 0
    const seen = conversations.open === peer && document.visibilityState === 'visible'
    if (seen ? mine.read >= seq : mine.received >= seq) return
    try {
      conversations.movedMine(peer, await link.request(seen ? 'read' : 'received', { with: peer, seq }))
    } catch (error) {
      if (error instanceof Refusal && error.retry) setTimeout(() => mark(peer), (error.retryAfter ?? 1) * 1_000)
    }
  }

  return { mark, markAll }
})
