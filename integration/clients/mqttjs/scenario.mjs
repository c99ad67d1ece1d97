// Drives MQTT.js through what a client relies on, with MQTT 3.1.1 and 5, and
// prints a line per step. Its argument is JSON: a url, options for MQTT.js, files
// with credentials by option, and a topic below which it may do everything.
import { readFileSync } from 'node:fs'
import mqtt from 'mqtt'

const { url, options: given, files, topic } = JSON.parse(process.argv[2])
const options = { ...given }
for (const [option, file] of Object.entries(files ?? {})) options[option] = readFileSync(file)

const clients = []
setTimeout(() => fail(new Error('not done within 40 s')), 40_000).unref()

function fail (err) {
  console.error(`failed: ${err.stack ?? err}`)
  process.exit(1)
}
process.on('unhandledRejection', fail)

async function connect (version, more = {}) {
  const client = mqtt.connect(url, {
    protocolVersion: version, reconnectPeriod: 0, connectTimeout: 10_000, ...options, ...more
  })
  clients.push(client)
  client.on('error', fail)
  client.inbox = []
  client.seen = new Set()
  client.on('message', (name, payload, packet) => {
    if (packet.dup && client.seen.has(payload.toString())) return // cut before its PUBACK was out
    client.seen.add(payload.toString())
    client.inbox.push({ name, text: payload.toString(), qos: packet.qos, retain: packet.retain })
    client.emit('inbox')
  })
  client.connack = await new Promise(resolve => client.once('connect', resolve))
  return client
}

// received waits until n messages came, and no more than those.
async function received (client, n) {
  while (client.inbox.length < n) await new Promise(resolve => client.once('inbox', resolve))
  if (client.inbox.length > n) throw new Error(`${client.inbox.length} messages, want ${n}: ${JSON.stringify(client.inbox)}`)
  return client.inbox.splice(0)
}

function same (got, want) {
  if (JSON.stringify(got) !== JSON.stringify(want)) {
    throw new Error(`got ${JSON.stringify(got)}, want ${JSON.stringify(want)}`)
  }
}

const steps = {
  async levels (version, at) {
    const sub = await connect(version)
    const pub = await connect(version)
    for (const qos of [0, 1, 2]) {
      await sub.subscribeAsync(`${at}/q${qos}`, { qos })
      const want = []
      for (let n = 0; n < 50; n++) {
        want.push({ name: `${at}/q${qos}`, text: `${n}`, qos, retain: false })
      }
      await Promise.all(want.map(m => pub.publishAsync(m.name, m.text, { qos })))
      same(await received(sub, 50), want)
    }
    const large = 'x'.repeat(300_000)
    await pub.publishAsync(`${at}/q1`, large, { qos: 1 })
    same((await received(sub, 1))[0].text.length, large.length)
  },

  async retained (version, at) {
    const client = await connect(version)
    await client.publishAsync(`${at}/kept`, 'kept', { qos: 1, retain: true })
    await client.subscribeAsync(`${at}/kept`, { qos: 1 })
    same(await received(client, 1), [{ name: `${at}/kept`, text: 'kept', qos: 1, retain: true }])
    await client.publishAsync(`${at}/kept`, '', { qos: 1, retain: true })
    await received(client, 1)
    const later = await connect(version)
    await later.subscribeAsync(`${at}/kept`, { qos: 1 })
    await later.publishAsync(`${at}/kept`, 'live', { qos: 1 })
    same((await received(later, 1))[0].text, 'live')
  },

  async will (version, at) {
    const watcher = await connect(version)
    await watcher.subscribeAsync(`${at}/will`, { qos: 1 })
    const mortal = await connect(version, { will: { topic: `${at}/will`, payload: 'gone', qos: 1, retain: false } })
    mortal.stream.destroy()
    same((await received(watcher, 1))[0].text, 'gone')
    const polite = await connect(version, { will: { topic: `${at}/will`, payload: 'never', qos: 1, retain: false } })
    await polite.endAsync()
    await watcher.publishAsync(`${at}/will`, 'end', { qos: 1 })
    same((await received(watcher, 1))[0].text, 'end')
  },

  async session (version, at) {
    const persistent = {
      clean: false, clientId: `session-${version}-${process.pid}`, properties: version === 5 ? { sessionExpiryInterval: 60 } : undefined
    }
    const first = await connect(version, persistent)
    await first.subscribeAsync(`${at}/queue`, { qos: 1 })
    first.stream.destroy()
    const pub = await connect(version)
    for (const text of ['1', '2', '3']) await pub.publishAsync(`${at}/queue`, text, { qos: 1 })
    const second = await connect(version, persistent)
    same(second.connack.sessionPresent, true)
    same((await received(second, 3)).map(m => m.text), ['1', '2', '3'])
    await second.endAsync()
    const clean = await connect(version, { ...persistent, clean: true, properties: undefined })
    same(clean.connack.sessionPresent, false)
    await pub.publishAsync(`${at}/queue`, 'nobody', { qos: 1 })
    await clean.subscribeAsync(`${at}/queue`, { qos: 1 })
    await pub.publishAsync(`${at}/queue`, 'again', { qos: 1 })
    same((await received(clean, 1))[0].text, 'again')
  },

  async reconnect (version, at) {
    const client = await connect(version, {
      reconnectPeriod: 50, clean: false, clientId: `reconnect-${version}-${process.pid}`,
      properties: version === 5 ? { sessionExpiryInterval: 60 } : undefined
    })
    await client.subscribeAsync(`${at}/back`, { qos: 1 })
    for (let n = 0; n < 3; n++) {
      const back = new Promise(resolve => client.once('connect', resolve))
      client.stream.destroy()
      const acked = client.publishAsync(`${at}/back`, `${n}`, { qos: 1 }) // while it is away
      const connack = await back
      if (!connack.sessionPresent) throw new Error('the session is lost')
      await acked
      same((await received(client, 1))[0].text, `${n}`)
    }
  }
}

for (const version of [4, 5]) {
  for (const [name, step] of Object.entries(steps)) {
    try {
      await step(version, `${topic}/v${version}/${name}`)
    } catch (err) {
      err.message = `version ${version}, ${name}: ${err.message}`
      fail(err)
    }
    await Promise.all(clients.splice(0).map(c => c.endAsync(true)))
    console.log(`ok ${version} ${name}`)
  }
}
console.log('done')
process.exit(0)
