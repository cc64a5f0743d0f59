/**
 * Table of all errors that a client can get.
 *
 * Codes are those of distribution-spec § Error codes, then those that registries have added since.
 * Only `http/` turns an {@link OciError} into a response; all other code just throws it.
 */

export const OCI_ERRORS = {
  BLOB_UNKNOWN: { status: 404, message: 'blob unknown to registry' },
  BLOB_UPLOAD_INVALID: { status: 400, message: 'blob upload invalid' },
  BLOB_UPLOAD_UNKNOWN: { status: 404, message: 'blob upload unknown to registry' },
  DENIED: { status: 403, message: 'requested access to the resource is denied' },
  DIGEST_INVALID: { status: 400, message: 'provided digest is not valid or did not match the content' },
  MANIFEST_BLOB_UNKNOWN: {
    status: 404,
    message: 'manifest references a manifest or blob unknown to registry',
  },
  MANIFEST_INVALID: { status: 400, message: 'manifest invalid' },
  MANIFEST_UNKNOWN: { status: 404, message: 'manifest unknown to registry' },
  NAME_INVALID: { status: 400, message: 'invalid repository name' },
  NAME_UNKNOWN: { status: 404, message: 'repository name not known to registry' },
  PAGINATION_NUMBER_INVALID: { status: 400, message: 'invalid number of results requested' },
  RANGE_INVALID: { status: 416, message: 'requested range not satisfiable' },
  SIZE_INVALID: { status: 400, message: 'provided length did not match content length' },
  TAG_INVALID: { status: 400, message: 'invalid tag name' },
  TOOMANYREQUESTS: { status: 429, message: 'too many requests' },
  UNAUTHORIZED: { status: 401, message: 'authentication required' },
  UNSUPPORTED: { status: 405, message: 'the operation is unsupported' },
  // The specification lacks these; `UNKNOWN` and `UNAVAILABLE` are distribution's codes.
  BAD_GATEWAY: { status: 502, message: 'the upstream registry answered with something unusable' },
  BAD_REQUEST: { status: 400, message: 'malformed request' },
  CONTENT_DAMAGED: {
    status: 500,
    message: 'this was pushed here, and its bytes were damaged or lost on the disk: push it again',
  },
  EXPECTATION_FAILED: { status: 417, message: 'the expectation cannot be met' },
  HEADERS_TOO_LARGE: { status: 431, message: 'request headers too large' },
  INSUFFICIENT_STORAGE: { status: 507, message: 'the storage of this registry is full' },
  MANIFEST_TOO_LARGE: { status: 413, message: 'manifest larger than 4 MiB' },
  NOT_FOUND: { status: 404, message: 'no such endpoint' },
  REQUEST_TIMEOUT: { status: 408, message: 'the request did not arrive in time' },
  UNAVAILABLE: { status: 503, message: 'the upstream registry cannot be asked right now' },
  UNKNOWN: { status: 500, message: 'internal error' },
  URI_TOO_LONG: { status: 414, message: 'request target too long' },
} as const satisfies Record<string, { status: number; message: string }>

export type OciErrorCode = keyof typeof OCI_ERRORS

interface OciErrorOptions {
  /** Replaces the table's message: a sentence for the user. Never paths, SQL or upstream bodies. */
  message?: string
  /** Sent as `Retry-After`, rounded up. */
  retryAfterSeconds?: number
  /** The supported methods; sent as `Allow` with a 405. */
  allow?: readonly string[]
  /** Why the absence is not confirmed (the upstream did not answer); sent as `Warning: 299`, and marked stale. */
  staleWarning?: string
  /** The underlying error; goes to the log, never to the client. */
  cause?: unknown
}

/** An expected failure: the client's mistake, missing content, or a registry that cannot serve now. */
export class OciError extends Error {
  override readonly name = 'OciError'
  readonly code: OciErrorCode
  readonly status: number
  readonly detail: Readonly<Record<string, unknown>> | undefined
  readonly retryAfterSeconds: number | undefined
  readonly allow: readonly string[] | undefined
  readonly staleWarning: string | undefined

  constructor(code: OciErrorCode, detail?: Readonly<Record<string, unknown>>, options: OciErrorOptions = {}) {
    super(options.message ?? OCI_ERRORS[code].message, { cause: options.cause })
    this.code = code
    this.status = OCI_ERRORS[code].status
    this.detail = detail
    this.retryAfterSeconds = options.retryAfterSeconds
    this.allow = options.allow
    this.staleWarning = options.staleWarning
  }

  /** The body of distribution-spec § Error codes. */
  toJSON(): {
    errors: [{ code: OciErrorCode; message: string; detail?: Readonly<Record<string, unknown>> }]
  } {
    return {
      errors: [
        {
          code: this.code,
          message: this.message,
          ...(this.detail === undefined ? {} : { detail: this.detail }),
        },
      ],
    }
  }
}
