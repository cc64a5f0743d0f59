/**
 * `cosign verify`, version 3: bundles that refer to an image, and before them the tag `sha256-….sig`.
 *
 * It looks twice for bundles: first for whether there are any, and again for what they say. Whatever goes wrong the
 * first time means that there are none, and then only the tag counts. Spec: its `cmd/cosign/cli/verify`,
 * `pkg/cosign/verify.go`.
 */
import { readManifest, RefusedError, type Client, type Pulling } from './client.ts'
import { Remote } from './go-containerregistry.ts'
import { PullError } from './wire.ts'

const USER_AGENT = 'cosign/v3.0.4 (linux; amd64) go-containerregistry/v0.20.7'
const BUNDLE = 'application/vnd.dev.sigstore.bundle'

export const cosign: Client = {
  name: 'cosign verify',
  elsewhere: 'nothing',
  keepAlive: true,
  async pull(pulling) {
    const hasBundles = await bundles(pulling).catch((error: unknown) => {
      if (error instanceof PullError) return false
      throw error
    })
    if (!hasBundles) await simpleSignatures(pulling)
    else if (!(await bundles(pulling))) throw new PullError('no valid bundles exist in registry')
  },
}

/** Whether there was one. What cannot be read of them is none. */
async function bundles(pulling: Pulling): Promise<boolean> {
  const { strand, tag } = pulling
  const remote = new Remote(pulling, USER_AGENT)
  await remote.ping()
  const { digest } = await remote.manifest(tag)
  let found = false
  for (const referrer of await remote.referrers(digest)) {
    try {
      const { layers } = readManifest((await remote.manifest(referrer.digest)).bytes)
      const [bundle] = layers
      if (bundle === undefined || layers.length !== 1 || !bundle.mediaType.startsWith(BUNDLE)) continue
      await remote.blob(strand, bundle)
      found = true
    } catch (error) {
      if (!(error instanceof PullError)) throw error
    }
  }
  return found
}

async function simpleSignatures(pulling: Pulling): Promise<void> {
  const { strand, tag } = pulling
  const remote = new Remote(pulling, USER_AGENT)
  await remote.ping()
  const { digest } = await remote.manifest(tag)
  const signatures = `${digest.replace(':', '-')}.sig`
  const { bytes } = await remote.manifest(signatures).catch((error: unknown) => {
    const unsigned = error instanceof RefusedError && error.status === 404
    throw unsigned ? new PullError('no signatures found', { cause: error }) : error
  })
  for (const signature of readManifest(bytes).layers) await remote.blob(strand, signature)
}
