import { fileURLToPath } from 'node:url'
import vue from '@vitejs/plugin-vue'
import { defineConfig } from 'vitest/config'

const path = (relative: string) => fileURLToPath(new URL(relative, import.meta.url))

export default defineConfig({
  plugins: [vue({ features: { optionsAPI: false } })],
  resolve: { alias: { '@': path('./src') } },
  build: {
    outDir: path('../src/duologue/web'),
    // The folder holds a committed .gitignore; hatch_build.py empties the rest.
    emptyOutDir: false,
    // No data: URLs, so that the Content-Security-Policy can stay at 'self'.
    assetsInlineLimit: 0,
    modulePreload: { polyfill: false },
    target: 'baseline-widely-available',
  },
  server: {
    port: 5173,
    proxy: { '/socket.io': { target: process.env['DUOLOGUE_URL'] ?? 'http://127.0.0.1:3000', ws: true } },
  },
  test: { include: ['test/**/*.test.ts'], environment: 'node' },
})
