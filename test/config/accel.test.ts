/** What the configuration says of an nginx in front. */
import { test, type Test } from 'tap'
import { ConfigError, loadConfig, type Config } from '../../src/config/schema.ts'

function config(text: string): Config {
  return loadConfig({ text, env: {} }).config
}

/** This problem and no other. */
function told(t: Test, text: string, expected: RegExp): void {
  try {
    config(text)
    t.fail(`taken: ${text}`)
  } catch (error) {
    if (!(error instanceof ConfigError)) throw error
    const problems = error.problems.map(({ path, message }) => `${path}: ${message}`)
    t.match(problems, [expected], text)
    t.equal(problems.length, 1)
  }
}

test('an nginx in front is named by a path and addresses', async (t) => {
  t.match(config('').server, { accelRedirect: undefined, accelFrom: ['127.0.0.0/8', '::1'] })
  const { server } = config(
    'server: { accelRedirect: /a/b.c-d/, accelFrom: [10.0.0.0/8, "fd00::/8", 192.0.2.7] }',
  )
  t.match(server, { accelRedirect: '/a/b.c-d/', accelFrom: ['10.0.0.0/8', 'fd00::/8', '192.0.2.7'] })
  for (const bad of ['/', 'blobs/', '/blobs', '/../', '/a/../b/', '/a//b/', '/a b/', '/a%2e/', '"/a\\r\\n/"'])
    told(t, `server: { accelRedirect: ${bad} }`, /^server\.accelRedirect: found .*, expected a path/)
  for (const bad of ['localhost', '127.0.0.1/33', '::1/129', '10.0.0.0/', '10.0.0.0/8/8', '"fe80::1%lo"'])
    told(t, `server: { accelFrom: [${bad}] }`, /^server\.accelFrom\[0\]: found .*, expected an IP address/)
})

test('behind an nginx nobody is on this machine: an account needs a list of what may be pulled', async (t) => {
  const account = 'server: { accelRedirect: /b/ }\nupstreams: { quay.io: { username: me, password: p'
  told(t, `${account} } }`, /whoever reaches the nginx of server\.accelRedirect could pull/)
  t.equal(config(`${account}, allow: ["team/**"] } }`).upstreams.length, 1)
})
