import { createRouter, createWebHashHistory, type Router } from 'vue-router'
import { useIdentity } from './stores/identity'
import ChatView from './views/ChatView.vue'
import WelcomeView from './views/WelcomeView.vue'

/** The address after the hash never reaches the server, and any static host can serve the page. */
export function createAppRouter(): Router {
  const router = createRouter({
    history: createWebHashHistory(),
    routes: [
      { path: '/welcome', name: 'welcome', component: WelcomeView },
      { path: '/', name: 'list', component: ChatView },
      { path: '/c/:peer([0-9a-f]{16})', name: 'conversation', component: ChatView },
      { path: '/:rest(.*)*', redirect: '/' },
    ],
  })
  const identity = useIdentity()
  router.beforeEach((to) => {
    if (!identity.identity && to.name !== 'welcome') return { name: 'welcome' }
    if (identity.identity && to.name === 'welcome') return { name: 'list' }
    return true
  })
  return router
}
