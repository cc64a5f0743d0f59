/**
 * Reading what lists of referrers say.
 */
import type { Pulled } from './app.ts'

/** The digests of a list of referrers, in its order. */
export function manifestDigest({ body }: Pulled): string[] {
  const { manifests } = JSON.parse(body.toString()) as { manifests: { digest: string }[] }
  return manifests.map(({ digest }) => digest)
}
