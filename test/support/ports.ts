/** Claims of TCP ports: a port stays somebody's own while nobody listens at it, among all test processes of the machine. */
import { randomInt } from 'node:crypto'
import { once } from 'node:events'
import { createServer, type Server } from 'node:net'

/** Below those that the kernel gives out. */
const PORTS = { first: 10_240, count: 22_000 }

export interface PortClaim {
  readonly port: number
  release(): void
}

/**
 * A claim is a Unix socket of an abstract name: it cannot be made twice, and goes with its process however that ends.
 * Who has one may find the port in use all the same, by somebody who claims nothing.
 */
export async function claimPort(): Promise<PortClaim> {
  for (;;) {
    const port = PORTS.first + randomInt(PORTS.count)
    const holder: Server = createServer()
    try {
      holder.listen({ path: `\0entrepot-test-port-${port}` })
      await once(holder, 'listening')
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code === 'EADDRINUSE') continue
      throw error
    }
    holder.unref()
    return { port, release: () => void holder.close() }
  }
}
