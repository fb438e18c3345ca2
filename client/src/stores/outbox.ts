import { defineStore } from 'pinia'
import { shallowReactive, shallowRef } from 'vue'
import { NoAnswer, Refusal } from '@/api/connection'
import type { Message } from '@/core/conversation'
import { nextToSend, retryDelay, type OutboxEntry } from '@/core/outbox'
import { uuid } from '@/core/uuid'
import { useConversations } from './conversations'
import { useIdentity } from './identity'
import { useLink } from './link'
import { useTabs } from './tabs'
import { useVault } from './vault'

/** Conversations with a message under way at a time. */
const MAX_IN_FLIGHT = 8

/**
 * Messages on their way. An entry is on disk before it is shown and leaves the disk in the transaction that stores the
 * acknowledged message, so that a reload, a cut or a crash at any moment neither loses nor doubles it.
 */
export const useOutbox = defineStore('outbox', () => {
  const conversations = useConversations()
  const identity = useIdentity()
  const link = useLink()
  const tabs = useTabs()
  const vault = useVault()
  const entries = shallowRef<readonly OutboxEntry[]>([])
  /** The ids of messages that were handed to the connection and wait for their ack. */
  const sending = shallowReactive(new Set<string>())
  const busy = new Set<string>()
  const attempts = new Map<string, number>()

  function restore(found: readonly OutboxEntry[]): void {
    entries.value = found
  }

  async function reload(): Promise<void> {
    const found = await vault.outbox()
    if (found) entries.value = found
    flush()
  }

  /** Resolves when the message is safe on this device. */
  async function send(to: string, content: string): Promise<void> {
    const entry = await vault.enqueue({ id: uuid(), to, content, at: Date.now(), failure: null })
    entries.value = [...entries.value.filter((held) => held.id !== entry.id), entry]
    tabs.tell({ kind: 'outbox changed' })
    flush()
  }

  /** Sends a refused message again. Nothing was stored of it, so the id stays; only a taken id is changed. */
  async function retry(entry: OutboxEntry): Promise<void> {
    const id = entry.failure?.code === 'conflict' ? uuid() : entry.id
    await replace({ ...entry, id, failure: null })
    flush()
  }

  async function discard(entry: OutboxEntry): Promise<void> {
    await vault.dropEntry(entry.order)
    remove(entry)
    tabs.tell({ kind: 'outbox changed' })
  }

  /** Starts what can be sent now. Safe to call at any time. */
  function flush(): void {
    if (!tabs.leads || !link.connected) return
    for (const entry of nextToSend(entries.value, busy, MAX_IN_FLIGHT - busy.size)) void deliver(entry)
  }

  async function deliver(entry: OutboxEntry): Promise<void> {
    busy.add(entry.to)
    sending.add(entry.id)
    let wait = 0
    try {
      const { to, content, id } = entry
      const ack = await link.request('private message', { content, to, id })
      await settle(entry, { id: ack.id, seq: ack.seq, at: ack.at, from: identity.identity!.userID, content })
    } catch (error) {
      wait = await setBack(entry, error)
    } finally {
      sending.delete(entry.id)
    }
    const release = (): void => {
      busy.delete(entry.to)
      flush()
    }
    if (wait > 0) setTimeout(release, wait * 1_000)
    else release()
  }

  async function settle(entry: OutboxEntry, message: Message): Promise<void> {
    attempts.delete(entry.id)
    conversations.acknowledged(entry.to, message)
    remove(entry)
    await vault.deliver(entry.order, conversations.headOf(entry.to), message)
    tabs.tell({ kind: 'sent', peer: entry.to, message })
    tabs.tell({ kind: 'outbox changed' })
  }

  /** Decides what becomes of a message that wasn't acknowledged; returns the seconds to wait before the next attempt. */
  async function setBack(entry: OutboxEntry, error: unknown): Promise<number> {
    if (error instanceof Refusal && !error.retry) {
      await replace({ ...entry, failure: { code: error.code, sentence: error.message } })
      return 0
    }
    if (!(error instanceof Refusal || error instanceof NoAnswer)) throw error
    // Without a connection there is nothing to wait for: the next one flushes.
    if (!link.connected) return 0
    const attempt = (attempts.get(entry.id) ?? 0) + 1
    attempts.set(entry.id, attempt)
    return retryDelay(attempt, error instanceof Refusal ? error.retryAfter : undefined)
  }

  async function replace(entry: OutboxEntry): Promise<void> {
    entries.value = entries.value.map((held) => (held.order === entry.order ? entry : held))
    await vault.replaceEntry(entry)
    tabs.tell({ kind: 'outbox changed' })
  }

  function remove(entry: OutboxEntry): void {
    entries.value = entries.value.filter((held) => held.order !== entry.order)
  }

  function clear(): void {
    entries.value = []
    sending.clear()
    busy.clear()
    attempts.clear()
  }

  return { entries, sending, restore, reload, send, retry, discard, flush, clear }
})
