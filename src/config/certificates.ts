/** PEM certificates of an authority, as a file has them. */
import { X509Certificate } from 'node:crypto'

/** Whether the text has at least one certificate, and all of them can be parsed. */
export function areCertificates(pem: string): boolean {
  const blocks = pem.match(/-----BEGIN CERTIFICATE-----[^-]+-----END CERTIFICATE-----/g) ?? []
  try {
    for (const block of blocks) new X509Certificate(block)
  } catch {
    return false
  }
  return blocks.length > 0
}
