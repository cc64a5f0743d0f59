/**
 * nginx in front of an entrepot, by the very file that we ship: only addresses and folders are others.
 */
import { execFileSync } from 'node:child_process'
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import path from 'node:path'

const NGINX_CONF = path.join(import.meta.dirname, '../../deploy/nginx.conf')

export interface NginxSettings {
  /** Everything of it goes there. */
  readonly folder: string
  readonly port: number
  /** Where entrepot listens on this machine. */
  readonly upstreamPort: number
  /** Its `storage.root`. */
  readonly root: string
  readonly tls: { readonly cert: string; readonly key: string } | undefined
}

/** @returns the arguments of an nginx that stays in the foreground, as one process */
export function writeNginxConfig({ folder, port, upstreamPort, root, tls }: NginxSettings): string[] {
  let text = readFileSync(NGINX_CONF, 'utf8')
  const put = (from: string | RegExp, to: string): void => {
    const before = text
    text = text.replace(from, to)
    if (text === before) throw new Error(`deploy/nginx.conf does not say ${String(from)}`)
  }
  put('server 127.0.0.1:5000;', `server 127.0.0.1:${String(upstreamPort)};`)
  put('listen 443 ssl http2;', `listen 127.0.0.1:${String(port)}${tls === undefined ? '' : ' ssl http2'};`)
  put('listen [::]:443 ssl http2;', '')
  put('alias /var/lib/entrepot/blobs/;', `alias ${root}/blobs/;`)
  if (tls === undefined) put(/^ *ssl_.*\n/gm, '')
  else {
    put('/etc/ssl/certs/mirror.example.pem', tls.cert)
    put('/etc/ssl/private/mirror.example.key', tls.key)
  }
  const temporary = path.join(folder, 'temporary')
  mkdirSync(temporary, { recursive: true })
  const temporaries = ['client_body', 'proxy', 'fastcgi', 'uwsgi', 'scgi']
    .map((kind) => `${kind}_temp_path ${temporary}/${kind};`)
    .join(' ')
  writeFileSync(path.join(folder, 'entrepot.conf'), text)
  const file = path.join(folder, 'nginx.conf')
  writeFileSync(
    file,
    `daemon off; master_process off; ${process.getuid?.() === 0 ? 'user root;' : ''}
    pid ${folder}/pid; error_log ${folder}/error.log;
    events { worker_connections 1024; }
    http {
      access_log off; keepalive_requests 1000000; ${temporaries}
      include ${folder}/entrepot.conf;
    }\n`,
  )
  return ['-c', file, '-p', folder]
}

/** A certificate for localhost, by itself. */
export function makeCertificate(folder: string): { cert: string; key: string } {
  const pair = { cert: path.join(folder, 'localhost.pem'), key: path.join(folder, 'localhost.key') }
  const algorithm = ['-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:P-256', '-nodes']
  const subject = ['-subj', '/CN=localhost', '-addext', 'subjectAltName=DNS:localhost', '-days', '2']
  const files = ['-keyout', pair.key, '-out', pair.cert]
  execFileSync('openssl', ['req', '-x509', ...algorithm, ...files, ...subject], { stdio: 'ignore' })
  return pair
}
