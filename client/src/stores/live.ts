import { defineStore } from 'pinia'
import { computed, shallowRef, watch } from 'vue'
import { Connection, NoAnswer, Refusal } from '@/api/connection'
import type { Auth, SyncPage } from '@/api/contract'
import { useConversations } from './conversations'
import { useDrafts } from './drafts'
import { useIdentity } from './identity'
import { useLink } from './link'
import { useMarks } from './marks'
import { useOutbox } from './outbox'
import { usePeople } from './people'
import { useTabs, type TabNews } from './tabs'
import { useTyping } from './typing'
import { useVault } from './vault'

/** How often the directory is read again while somebody looks at it, in milliseconds. */
const DIRECTORY_EVERY = 15_000

/** How long leaving waits for the server, in milliseconds. */
const LEAVE_PATIENCE = 2_000

/** Brings the stores to life: loads what is held, connects, and leads every event to the store that it concerns. */
export const useLive = defineStore('live', () => {
  const conversations = useConversations()
  const drafts = useDrafts()
  const identity = useIdentity()
  const link = useLink()
  const marks = useMarks()
  const outbox = useOutbox()
  const people = usePeople()
  const tabs = useTabs()
  const typing = useTyping()
  const vault = useVault()

  /** Set once what this device holds is in memory. */
  const ready = shallowRef(false)
  let waiting: (() => void)[] = []
  let cursor: string | null = null
  let syncing = 0
  /** The latest live cursor during a sync of several pages: usable only when the last page is in. */
  let ahead: string | null = null
  let joining = ''

  /** Takes up the identity that this browser holds. */
  async function resume(): Promise<void> {
    const held = identity.identity
    if (!held) return
    await unlock(held.userID)
    connect()
  }

  /** Asks for a new guest of this name. The outcome shows in `identity` or `link.refusal`. */
  function begin(username: string): void {
    joining = username
    connect()
  }

  /** Gives the identity up, with everything that this browser holds of it. Other tabs and devices follow. */
  async function leave(): Promise<void> {
    tabs.tell({ kind: 'left' })
    // Without an answer the server goes on knowing the key, which nobody has any more once it's erased here.
    await link.request('sign out', {}, LEAVE_PATIENCE).catch(lostAgain)
    await end(true)
  }

  async function end(erase: boolean): Promise<void> {
    link.attach(null)
    tabs.part()
    drafts.clear()
    identity.forget()
    conversations.clear()
    outbox.clear()
    people.clear()
    ready.value = false
    cursor = null
    await vault.close(erase)
  }

  function connect(): void {
    link.attach(new Connection(credentials, handlers, { up, down, refused: (refusal) => (link.refusal = refusal) }))
  }

  function credentials(): Auth {
    const held = identity.identity
    return held ? { sessionID: held.sessionID, sync: { since: cursor } } : { username: joining, sync: { since: null } }
  }

  const handlers = {
    session({ sessionID, userID }: { sessionID: string; userID: string }): void {
      if (identity.identity?.userID === userID) return
      identity.adopt({ sessionID, userID, username: joining })
      void unlock(userID)
    },
    sync: (page: SyncPage) => whenReady(() => void takeSync(page)),
    'private message': (message: Parameters<typeof conversations.arrived>[0] & { cursor?: string }) =>
      whenReady(() => {
        const peer = conversations.arrived(message)
        typing.stopped(message.from)
        moved(message.cursor)
        marks.mark(peer)
      }),
    receipt: (receipt: Parameters<typeof conversations.receipt>[0]) =>
      whenReady(() => {
        conversations.receipt(receipt)
        moved(receipt.cursor)
      }),
    typing: ({ from }: { from: string }) => typing.heard(from),
    'user connected': people.learn,
    'user disconnected': people.left,
    server: link.told,
  }

  function up(): void {
    link.refusal = null
    link.state = 'syncing'
    people.forgetWatch()
  }

  function down(): void {
    link.state = 'offline'
    // A sync that was under way is void; the next connection begins a new one from the same cursor.
    syncing = 0
    typing.clear()
  }

  /** Opens what this device holds of the user, then lets in the events that waited for it. */
  async function unlock(userID: string): Promise<void> {
    const held = await vault.open(userID)
    cursor = held.cursor
    conversations.restore(held.heads)
    outbox.restore(held.outbox)
    tabs.join(userID, hear, () => void outbox.reload())
    ready.value = true
    const due = waiting
    waiting = []
    due.forEach((act) => act())
  }

  function whenReady(act: () => void): void {
    if (ready.value) act()
    else waiting.push(act)
  }

  async function takeSync(first: SyncPage): Promise<void> {
    const since = cursor
    const run = (syncing = performance.now())
    ahead = null
    link.told(first.server)
    identity.adopt({ ...identity.identity!, username: first.me.username })
    if (first.reset) conversations.drop()
    outbox.flush()
    try {
      for (let page = first; ; ) {
        page.conversations.forEach(conversations.synced)
        if (page.next === null) break
        page = await link.request('sync', { since, next: page.next })
        if (run !== syncing) return
      }
    } catch (error) {
      if (run !== syncing) return
      if (!(error instanceof NoAnswer || error instanceof Refusal)) throw error
      return link.restart()
    }
    syncing = 0
    reached(ahead ?? first.cursor)
    link.state = 'online'
    marks.markAll()
    await Promise.all([refresh(), conversations.open && conversations.completeTail(conversations.open)]).catch(lostAgain)
  }

  function moved(to: string | undefined): void {
    if (to === undefined) return
    if (syncing) ahead = to
    else reached(to)
  }

  function reached(to: string): void {
    cursor = to
    vault.reached(to)
  }

  function hear(news: TabNews): void {
    if (news.kind === 'sent') conversations.acknowledged(news.peer, news.message)
    else if (news.kind === 'outbox changed') void outbox.reload()
    else void end(false)
  }

  async function refresh(): Promise<void> {
    if (link.state === 'online') await people.refresh()
  }

  /** A request failed because the connection did: the next sync asks again. */
  function lostAgain(error: unknown): void {
    if (!(error instanceof NoAnswer || error instanceof Refusal)) throw error
  }

  /** Those whose presence matters: whom the lists show, the most recent first. */
  const shown = computed(() => {
    const ids = [conversations.open, ...conversations.ordered.map((c) => c.peer), ...people.listed]
    return [...new Set(ids.filter((id) => id !== null))]
  })

  watch([shown, () => link.state], () => {
    if (link.state === 'online' && shown.value.length > 0) people.watch(shown.value).catch(lostAgain)
  })

  watch(
    () => conversations.open,
    (peer) => peer && marks.mark(peer),
  )

  document.addEventListener('visibilitychange', () => {
    if (document.visibilityState !== 'visible') return
    if (conversations.open) marks.mark(conversations.open)
    refresh().catch(lostAgain)
  })

  setInterval(() => {
    if (document.visibilityState === 'visible') refresh().catch(lostAgain)
  }, DIRECTORY_EVERY)

  return { ready, resume, begin, leave, refresh }
})
