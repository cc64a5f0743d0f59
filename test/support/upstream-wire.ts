/**
 * What the simulated registry does to a connection instead of answering on it, or before it answers.
 */
import type { ServerResponse } from 'node:http'
import type { Socket } from 'node:net'
import { setTimeout as sleep } from 'node:timers/promises'
import type { Call } from './upstream-send.ts'

/** Sockets on which a request was answered already. */
const used = new WeakSet<Socket>()

/** @returns false when that was all the answer there is */
export async function mayAnswer(call: Call): Promise<boolean> {
  const { behaviour, response } = call
  const socket = response.socket
  if (socket === null) return false
  const reused = used.has(socket)
  used.add(socket)
  const { raw, slowloris, informational } = behaviour
  if (behaviour.hang === 'headers') return false
  if (behaviour.connReset === true) {
    socket.resetAndDestroy()
  } else if (behaviour.emptyReply === true || (behaviour.keepAliveRace === true && reused)) {
    socket.end()
  } else if (raw !== undefined) {
    socket.write(raw.bytes, 'latin1')
    if (raw.then === 'rst') socket.resetAndDestroy()
    else if (raw.then !== 'hang') socket.end()
  } else if (slowloris?.in === 'head') {
    await trickleHead(socket, slowloris.everyMs)
  } else {
    if (informational !== undefined) await sendInformational(response, informational)
    return !response.destroyed
  }
  return false
}

/** A head without end, byte by byte. */
async function trickleHead(socket: Socket, everyMs: number): Promise<void> {
  socket.write('HTTP/1.1 200 OK\r\nX-Slow: ')
  while (!socket.destroyed) {
    await sleep(everyMs)
    socket.write('x')
  }
}

async function sendInformational(response: ServerResponse, times: number | 'endless'): Promise<void> {
  for (let sent = 0; (times === 'endless' || sent < times) && !response.destroyed; sent += 1) {
    response.writeProcessing()
    if (times === 'endless') await sleep(10)
  }
}
