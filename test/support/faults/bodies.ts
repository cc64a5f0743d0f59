/**
 * What registries, and what stands before them, say in place of an OCI error.
 */
interface OddBody {
  readonly name: string
  readonly status: number
  readonly text: string
  readonly type: string
  /** A 404 that proves that there is none. */
  readonly absent: boolean
}

const JSON_TYPE = 'application/json'
const HTML_TYPE = 'text/html; charset=utf-8'

function errors(code: string): string {
  return JSON.stringify({ errors: [{ code, message: 'not today', detail: {} }] })
}

function body(name: string, status: number, type: string, text: string, absent = false): OddBody {
  return { name, status, text, type, absent }
}

export const ODD_BODIES: readonly OddBody[] = [
  body('html 404', 404, HTML_TYPE, '<!doctype html><title>404</title>\n'),
  body('html 502', 502, HTML_TYPE, '<html><h1>502 Bad Gateway</h1></html>\n'),
  body('html 504', 504, HTML_TYPE, '<html><h1>504 Gateway Time-out</h1></html>\n'),
  body('empty errors', 404, JSON_TYPE, '{"errors":[]}'),
  body('details', 404, JSON_TYPE, '{"details":"incorrect username or password"}'),
  body('message', 404, JSON_TYPE, '{"message":"no Route matched with those values"}'),
  body('plain text', 404, 'text/plain; charset=utf-8', '404 page not found\n'),
  body('nothing', 404, JSON_TYPE, ''),
  body('null', 404, JSON_TYPE, 'null'),
  body('no list', 404, JSON_TYPE, '{"errors":{"code":"MANIFEST_UNKNOWN"}}'),
  body('no code', 404, JSON_TYPE, '{"errors":[{"message":"manifest unknown"}]}'),
  body('lower-case code', 404, JSON_TYPE, errors('manifest_unknown'), true),
  body('TAG_EXPIRED', 404, JSON_TYPE, errors('TAG_EXPIRED'), true),
  body('NOT_FOUND', 404, JSON_TYPE, errors('NOT_FOUND'), true),
  body('UNKNOWN', 404, JSON_TYPE, errors('UNKNOWN'), true),
  body('JSON called text', 404, 'text/plain', errors('MANIFEST_UNKNOWN'), true),
  body('METHOD NOT ALLOWED', 405, JSON_TYPE, errors('METHOD NOT ALLOWED')),
  body('405 DENIED', 405, JSON_TYPE, errors('DENIED')),
]
