// Put into the page before its own scripts: what the page itself can see of how quick it is. All times in milliseconds.
window.probes = (() => {
  const ACKNOWLEDGED = ['sent', 'delivered', 'read']
  const PATIENCE = 15_000

  /** Frames and tasks of more than 50 ms, from `start` to `stop`. */
  let frames = []
  let tasks = []
  let began = Infinity
  let last = null

  function frame(now) {
    if (began === Infinity) return
    if (last !== null) frames.push(now - last)
    last = now
    requestAnimationFrame(frame)
  }

  function note(entries) {
    for (const { startTime, duration } of entries) if (startTime >= began) tasks.push(duration)
  }

  const observer = new PerformanceObserver((list) => note(list.getEntries()))
  observer.observe({ type: 'longtask' })

  function start() {
    frames = []
    tasks = []
    last = null
    began = performance.now()
    requestAnimationFrame(frame)
  }

  function stop() {
    note(observer.takeRecords())
    began = Infinity
    return { frames, tasks }
  }

  /** The message that is being written: when Enter went down, when its row was in a frame, when it stood there as sent. */
  let writing = null

  addEventListener(
    'keydown',
    (event) => {
      if (event.key === 'Enter' && writing) writing.pressed = event.timeStamp
    },
    true,
  )

  function look() {
    if (!writing?.pressed) return
    const row = [...document.querySelectorAll('.line.own')].findLast((each) => each.querySelector('.text')?.textContent === writing.text)
    if (!row) return
    const { pressed, mark } = writing
    mark('echo', pressed)
    if (ACKNOWLEDGED.includes(row.dataset.state)) mark('sent', pressed)
  }

  /** Resolves with {echo, sent} once a message of this text, which nothing else there has, was sent by the Enter key. */
  function expect(text) {
    const found = {}
    const due = {}
    const mutations = new MutationObserver(look)
    window.echoed = new Promise((resolve, reject) => {
      const timer = setTimeout(() => finish(() => reject(new Error(`no echo of "${text}": ${JSON.stringify(found)}`))), PATIENCE)
      function finish(end) {
        clearTimeout(timer)
        mutations.disconnect()
        writing = null
        end()
      }
      function mark(what, pressed) {
        if (due[what]) return
        due[what] = true
        requestAnimationFrame(() => {
          found[what] = performance.now() - pressed
          if ('echo' in found && 'sent' in found) finish(() => resolve(found))
        })
      }
      writing = { text, pressed: 0, mark }
    })
    mutations.observe(document.querySelector('[role=log]'), { subtree: true, childList: true, attributeFilter: ['data-state'] })
  }

  /** The history is shown from its first message. */
  function atBeginning() {
    const edge = document.querySelector('[role=log] .edge')
    return edge !== null && edge.textContent.startsWith('This is the beginning')
  }

  return { start, stop, expect, atBeginning }
})()
