import { defineStore } from 'pinia'
import { computed, shallowRef } from 'vue'
import { Connection, NoAnswer, type Refusal } from '@/api/connection'
import type { Requests, ServerLimits } from '@/api/contract'

/** `offline`: no connection; `syncing`: connected, what was missed is coming in; `online`: all is here. */
export type LinkState = 'offline' | 'syncing' | 'online'

const LIMITS: ServerLimits = { typingRepeat: 3_000, typingExpires: 6_000, maxContent: 8_000, maxPage: 200, maxWatch: 200, returnWithin: 0 }

/** The connection as the other stores see it. `live` opens and closes it. */
export const useLink = defineStore('link', () => {
  const state = shallowRef<LinkState>('offline')
  const limits = shallowRef<ServerLimits>(LIMITS)
  /** Why the server won't have these credentials; null while it might. */
  const refusal = shallowRef<Refusal | null>(null)
  const connected = computed(() => state.value !== 'offline')
  let connection: Connection | null = null

  function attach(to: Connection | null): void {
    connection?.close()
    connection = to
    state.value = 'offline'
    refusal.value = null
    to?.open()
  }

  function told(changed: Partial<ServerLimits>): void {
    limits.value = { ...limits.value, ...changed }
    if (changed.returnWithin !== undefined) connection?.returnWithin(changed.returnWithin)
  }

  function restart(): void {
    state.value = 'offline'
    connection?.restart()
  }

  async function request<E extends keyof Requests>(
    event: E,
    body: Requests[E][0],
    patience?: number,
  ): Promise<Requests[E][1]> {
    if (!connection) throw new NoAnswer()
    return await connection.request(event, body, patience)
  }

  return { state, limits, refusal, connected, attach, told, restart, request }
})
