import { createPinia } from 'pinia'
import { createApp } from 'vue'
import App from './App.vue'
import { createAppRouter } from './router'
import { useLive } from './stores/live'
import './styles/base.css'

const app = createApp(App)
app.use(createPinia())
void useLive().resume()
app.use(createAppRouter())
app.mount('#app')
