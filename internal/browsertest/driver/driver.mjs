// Runs the scripts of tests in the pages of one Chromium. A line of JSON comes in for each
// script, and one goes out with its result, in whatever order they end. The end of the input
// ends it all.
import { createInterface } from 'node:readline'
import { chromium } from 'playwright-core'

const [executable, timeout] = process.argv.slice(2)
const browser = await chromium.launch({ // in a new profile, which goes with the browser
  executablePath: executable,
  timeout: Number(timeout),
  args: [
    '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-sync', '--disable-background-networking', '--disable-component-update',
    '--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1, EXCLUDE localhost', // nothing leaves the machine
  ],
})

const pages = new Map() // by number: page, context, faults

async function open(number, { origin, ...options }) {
  const context = await browser.newContext(options)
  context.setDefaultTimeout(Number(timeout))
  const faults = []
  await context.addInitScript(() => document.addEventListener('securitypolicyviolation',
    e => console.error(`Content-Security-Policy: ${e.effectiveDirective} forbids ${e.blockedURI || 'inline'} ${e.sample}`)))
  // What comes as a status is told by response, with the address.
  context.on('console', m => m.type() === 'error' && !m.text().startsWith('Failed to load resource') && faults.push(`console: ${m.text()}`))
  context.on('weberror', e => faults.push(`script: ${e.error().stack}`))
  context.on('dialog', d => { faults.push(`${d.type()}: ${d.message()}`); d.dismiss().catch(() => {}) })
  context.on('request', r => !`${r.url()}/`.startsWith(`${origin}/`) && faults.push(`request to elsewhere: ${r.method()} ${r.url()}`))
  context.on('requestfailed', r => r.failure()?.errorText !== 'net::ERR_ABORTED' && faults.push(`request: ${r.url()}: ${r.failure()?.errorText}`))
  context.on('response', r => r.status() >= (r.request().isNavigationRequest() ? 500 : 400) && faults.push(`response: ${r.status()} ${r.url()}`))
  const page = await context.newPage()
  const client = await context.newCDPSession(page)
  await client.send('Performance.enable') // scripts are timed from now on
  pages.set(number, { page, context, client, faults })
}

const Script = Object.getPrototypeOf(async () => {}).constructor

async function run({ page: number, script, args, options, what }) {
  if (what === 'open') {
    return open(number, options)
  }
  const { page, context, client, faults } = pages.get(number)
  switch (what) {
    case 'faults':
      return faults.splice(0)
    case 'metrics':
      return Object.fromEntries((await client.send('Performance.getMetrics')).metrics.map(m => [m.name, m.value]))
    case 'close':
      pages.delete(number)
      return context.close()
    default:
      return new Script('page', 'context', ...args.map((_, i) => `$${i + 1}`), script)(page, context, ...args)
  }
}

const answer = a => process.stdout.write(JSON.stringify(a) + '\n')
answer({ id: 0, result: browser.version() })
for await (const line of createInterface({ input: process.stdin })) {
  const call = JSON.parse(line)
  run(call).then(result => answer({ id: call.id, result }), e => answer({ id: call.id, error: e.message || String(e) }))
}
await browser.close()
