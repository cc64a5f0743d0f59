/** The table of errors, and the body it makes. */
import { test } from 'tap'
import { OCI_ERRORS, OciError, type OciErrorCode } from '../../src/oci/errors.ts'

test('every error of the table is a failure with a code, a status and a sentence', (t) => {
  for (const [code, { status, message }] of Object.entries(OCI_ERRORS)) {
    t.match(code, /^[A-Z]+(_[A-Z]+)*$/)
    t.ok(status >= 400 && status < 600, code)
    const error = new OciError(code as OciErrorCode)
    t.match(error, { code, status, message, name: 'OciError', detail: undefined })
    t.same(JSON.parse(JSON.stringify(error)), { errors: [{ code, message }] })
  }
  t.end()
})

test('facts and sentences go to the wire, causes do not', (t) => {
  const error = new OciError(
    'DENIED',
    { name: 'a/b' },
    { message: 'pushes go to team/**', retryAfterSeconds: 3, cause: new Error('/secret/path') },
  )
  t.equal(
    JSON.stringify(error),
    '{"errors":[{"code":"DENIED","message":"pushes go to team/**","detail":{"name":"a/b"}}]}',
  )
  t.match(error, { status: 403, retryAfterSeconds: 3, cause: { message: '/secret/path' } })
  t.end()
})
