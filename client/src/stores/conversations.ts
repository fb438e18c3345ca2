import { defineStore } from 'pinia'
import { computed, shallowReactive, shallowRef } from 'vue'
import type { WireConversation, WireMessage, WireReceipt } from '@/api/contract'
import {
  addMessages, applyHead, byRecency, emptyConversation, missingTail, moveMine, moveTheirs, olderThanRun, tailRun, trim,
  unreadCount, type Conversation, type Message, type Positions,
} from '@/core/conversation'
import type { StoredHead } from '@/storage/database'
import { useIdentity } from './identity'
import { useLink } from './link'
import { usePeople } from './people'
import { useVault } from './vault'

/** Messages asked for at a time, from disk or by `history`. */
const PAGE = 50
/** What a conversation that isn't open keeps in memory. */
const CLOSED_KEEPS = 50
/** What an open one keeps while its end is read; twice as many may gather before it's cut. */
const OPEN_KEEPS = 500

/** All conversations by the other side's id, kept on this device as they change. */
export const useConversations = defineStore('conversations', () => {
  const identity = useIdentity()
  const link = useLink()
  const people = usePeople()
  const vault = useVault()
  const all = shallowReactive(new Map<string, Conversation>())
  const open = shallowRef<string | null>(null)
  const loading = shallowRef(false)

  const ordered = computed(() => [...all.values()].filter((c) => c.seq > 0).sort(byRecency))
  const unread = computed(() => ordered.value.reduce((sum, c) => sum + unreadCount(c), 0))

  function get(peer: string): Conversation {
    return all.get(peer) ?? emptyConversation(peer, peer === identity.identity?.userID)
  }

  function headOf(peer: string): StoredHead {
    const { messages: _, ...head } = get(peer)
    return { ...head, username: people.nameOf(peer) }
  }

  function change(conversation: Conversation, news: readonly Message[] = []): void {
    const { peer } = conversation
    all.set(peer, open.value === peer ? conversation : trim(conversation, CLOSED_KEEPS))
    vault.add(headOf(peer), news)
  }

  function restore(heads: readonly StoredHead[]): void {
    for (const { username, ...head } of heads) {
      people.remember(head.peer, username)
      all.set(head.peer, { ...head, messages: head.last ? [head.last] : [] })
    }
  }

  /** `reset` of a sync: everything held is void. */
  function drop(): void {
    all.clear()
    vault.drop()
  }

  function synced(wire: WireConversation): void {
    people.learn(wire.with)
    const messages = wire.messages.map(fromWire)
    const head = {
      seq: wire.seq,
      mine: { received: wire.received, read: wire.read },
      theirs: { received: wire.peerReceived, read: wire.peerRead },
    }
    change(applyHead(addMessages(get(wire.with.userID), messages), head), messages)
  }

  function arrived(wire: WireMessage): string {
    const peer = wire.from === identity.identity?.userID ? wire.to : wire.from
    const message = fromWire(wire)
    change(addMessages(get(peer), [message]), [message])
    return peer
  }

  /** One's own message, announced by its ack. The vault writes it together with the outbox. */
  function acknowledged(peer: string, message: Message): void {
    all.set(peer, addMessages(get(peer), [message]))
  }

  function receipt(wire: WireReceipt): void {
    const me = identity.identity?.userID
    const to: Positions = { received: wire.received, read: wire.read }
    if (wire.from === me) change(moveMine(get(wire.to), to))
    if (wire.to === me) change(moveTheirs(get(wire.from), to))
  }

  function movedMine(peer: string, to: Positions): void {
    change(moveMine(get(peer), to))
  }

  /** Shows a conversation: what is held at once, then what is missing at its end. Rejects as `link.request` does. */
  async function show(peer: string | null): Promise<void> {
    const before = open.value
    open.value = peer
    if (before && before !== peer && all.has(before)) all.set(before, trim(get(before), CLOSED_KEEPS))
    if (!peer) return
    const held = await vault.messages(peer, Infinity, PAGE)
    if (held.length > 0) all.set(peer, addMessages(get(peer), held))
    await completeTail(peer)
  }

  /** The end of the open conversation is being read: what is far above it can be brought again by `older`. */
  function shorten(peer: string): void {
    const conversation = get(peer)
    if (conversation.messages.length > 2 * OPEN_KEEPS) all.set(peer, trim(conversation, OPEN_KEEPS))
  }

  /** After a sync, or at the opening: the open conversation holds its end, and enough to fill a screen. */
  async function completeTail(peer: string): Promise<void> {
    const conversation = get(peer)
    if (!link.connected || conversation.seq === 0) return
    if (missingTail(conversation)) await page(peer, null)
    else if (tailRun(conversation.messages).length < PAGE / 2) await older(peer)
  }

  /** Brings what precedes the shown messages, from disk if it's held there. Rejects as `link.request` does. */
  async function older(peer: string): Promise<void> {
    const before = olderThanRun(tailRun(get(peer).messages))
    if (before === null || loading.value) return
    loading.value = true
    try {
      const held = await vault.messages(peer, before, PAGE)
      if (held.at(-1)?.seq === before - 1) all.set(peer, addMessages(get(peer), held))
      else await page(peer, before)
    } finally {
      loading.value = false
    }
  }

  async function page(peer: string, before: number | null): Promise<void> {
    const limit = PAGE
    const { messages } = await link.request('history', before === null ? { with: peer, limit } : { with: peer, before, limit })
    const news = messages.map(fromWire)
    change(addMessages(get(peer), news), news)
  }

  function clear(): void {
    all.clear()
    open.value = null
  }

  return {
    all, open, loading, ordered, unread, get, headOf, restore, drop, synced, arrived, acknowledged, receipt, movedMine, show,
    completeTail, older, shorten, clear,
  }
})

function fromWire({ id, seq, at, from, content }: WireMessage): Message {
  return { id, seq, at, from, content }
}
