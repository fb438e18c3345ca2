import { defineStore } from 'pinia'
import { shallowRef } from 'vue'

export interface Identity {
  readonly sessionID: string
  readonly userID: string
  readonly username: string
}

const KEY = 'duologue:identity'

/** Who this browser is. The session is the only credential of a guest; whoever loses it is a new user. */
export const useIdentity = defineStore('identity', () => {
  const identity = shallowRef<Identity | null>(read())

  function adopt(adopted: Identity): void {
    identity.value = adopted
    localStorage.setItem(KEY, JSON.stringify(adopted))
  }

  function forget(): void {
    identity.value = null
    localStorage.removeItem(KEY)
  }

  return { identity, adopt, forget }
})

function read(): Identity | null {
  try {
    const held = JSON.parse(localStorage.getItem(KEY) ?? 'null') as Partial<Identity> | null
    return held?.sessionID && held.userID && held.username ? (held as Identity) : null
  } catch {
    return null
  }
}
