/**
 * What each key of the configuration means, for docs/configuration.md and config.example.yaml.
 *
 * Types, defaults and what a reload may change are not written here: they are read from the program. A key of the
 * schema without a text here, and a text without a key, fail the generator. Texts are Markdown; links are as seen
 * from docs/.
 */

export interface KeyText {
  /** One or two sentences, for both files. */
  readonly meaning: string
  /** What is done while the key is not set, where the schema has no default. */
  readonly unset?: string
  /** Further paragraphs, for the page alone. */
  readonly more?: string
  /** YAML for the example, where the default is not what helps to understand the key. */
  readonly example?: string
}

export const KEYS: Readonly<Record<string, KeyText>> = {
  server: { meaning: 'Where clients reach entrepot.' },
  'server.host': {
    meaning: 'Address to listen on; `0.0.0.0` serves the network.',
    more: '`ENTREPOT_HOST` wins over it.',
  },
  'server.port': { meaning: '`0` takes a free one.', more: '`ENTREPOT_PORT` wins over it.' },
  'server.publicUrl': {
    meaning:
      'What clients call this server: `https://mirror.example`. ' +
      "On loopback no other name but this machine's is answered. Where it is set, a proxy is in front.",
    unset: 'none',
  },
  'server.shutdownGrace': {
    meaning:
      'How long after SIGTERM answers that are under way may take; Kubernetes kills a process after 30 s.',
  },
  'server.sendfile': {
    meaning:
      'What is on the disk leaves by the kernel alone where it can (Linux, no TLS); `false`: it is always copied.',
  },
  'server.accelRedirect': {
    meaning:
      '`/internal-blobs/`: an nginx in front sends finished blobs (deploy/nginx.conf). ' +
      'Then nobody may push by being on this machine.',
    unset: 'entrepot sends them',
    more: '[Behind nginx](deploy.md#behind-nginx) says how, and what `push.local` is then.',
  },
  'server.accelFrom': { meaning: 'Addresses and networks from which that nginx asks.' },
  'server.tls.cert': {
    meaning: 'PEM file of the certificate; both or none of the two are set. Read again when it changes.',
    unset: 'plain HTTP',
  },
  'server.tls.key': {
    meaning: 'PEM file of its private key; read again when it changes.',
    unset: 'plain HTTP',
  },

  storage: { meaning: 'Where everything that is kept lies.' },
  'storage.root': {
    meaning: 'The folder of blobs and index; one process at a time.',
    more: '`ENTREPOT_ROOT` wins over it. [Storage](storage.md) says what is in it.',
  },

  cache: { meaning: 'What is mirrored, for how long it is believed, and how much of it is kept.' },
  'cache.maxSize': {
    meaning: 'The most that mirrored bytes may take: `200GiB`, or `80%` of the file system.',
    more: 'What was pushed does not count. [A budget](storage.md#a-budget) says what goes when it is full.',
  },
  'cache.minFree': {
    meaning: 'Kept free on the file system, whatever `cache.maxSize` says, also by pushes.',
  },
  'cache.tagTtl': { meaning: 'A tag, or list, younger than this is answered without asking upstream.' },
  'cache.negativeTtl': { meaning: 'How long "there is no such tag", or list, is believed.' },
  'cache.staleIfError': {
    meaning: 'How long a cached tag, or list, answers while upstream cannot be asked.',
  },
  'cache.staleIfDenied': {
    meaning: 'How long a cached tag, or list, answers while upstream refuses entrepot (401, 403).',
  },
  'cache.prefetch': {
    meaning:
      'What is fetched ahead of the clients. `layers`: the rest of an image, and what refers to it, ' +
      'follows its first cold layers; `config`: only configs follow; `off`: nothing.',
  },
  'cache.finishAbandoned': {
    meaning:
      'Downloads whose clients left go on: `always`, `never`, or `25%` (when that much is here already).',
  },
  'cache.offline': { meaning: '`true`: never ask any upstream.' },
  'cache.pin': {
    meaning:
      'Globs over full names that are never evicted: `docker.io/library/alpine:3.*`; ' +
      'without a tag, all tags.',
  },
  'cache.scrubInterval': {
    meaning: 'Within this time every blob is read and compared with its digest once; 0: never.',
    more: '[Files that rot](storage.md#files-that-rot) says what becomes of a damaged one.',
  },

  upstreams: {
    meaning:
      "The registries that are mirrored. The key is the registry's name, the prefix of its images here " +
      '(HOST:5000/quay.io/prometheus/node-exporter) and the value of ?ns=. A map of your own replaces this one.',
    more: '[Upstreams](upstreams.md) says how they are asked, and what is done when they fail.',
  },
  'upstreams.*.url': {
    meaning: 'Where the registry is.',
    unset: '`https://` and the key; for docker.io its API host',
    example: 'https://registry-1.docker.io',
  },
  'upstreams.*.fallbacks': {
    meaning:
      'Further URLs, asked in this order, without credentials, when `url` cannot answer ' +
      '(a 404 or 401 is an answer).',
    more: `Further places of the same images, such as \`https://mirror.gcr.io\` for Docker Hub. While \`url\` cannot be
reached, limits us or answers nonsense, manifests come from there, and so does the rest of a layer that broke off. What
a tag names there is believed, so list only what you trust as much; lists of tags and referrers are never taken from
there. \`/readyz\` names the fallback in use.`,
  },
  'upstreams.*.default': {
    meaning: 'Names without a registry go here.',
    unset: 'docker.io is the default, unless another upstream is or it says `false`',
    example: 'true',
    more: `A name without a registry (\`nginx\`, or whatever a Docker daemon asks of its \`registry-mirrors\`) is one of
\`docker.io\`, as it is for every client: also in a map of your own, unless another upstream there has \`default: true\`, or
\`docker.io\` has \`default: false\`. Where there is no default such a name is 404, and Docker then goes to Docker Hub past
entrepot; so the line that entrepot prints at the start offers \`registry-mirrors\` only where they work.`,
  },
  'upstreams.*.aliases': {
    meaning: 'Further names; docker.io always has index.docker.io and registry-1.docker.io.',
  },
  'upstreams.*.username': {
    meaning:
      'With credentials, entrepot needs an `allow` list or a loopback `server.host`: ' +
      "whoever may pull here could else pull that account's private images.",
    unset: 'asked without an account',
    more: `Credentials go to the upstream itself and to a token service on its domain, nowhere else. Those in files and from
helpers are looked up again when they are refused, so a rotated password (ECR's lasts twelve hours) needs no restart.
While they are refused, cached tags are served for \`cache.staleIfDenied\`, \`/readyz\` says since when and why, and
\`entrepot_upstream_credentials_rejected\` is 1.`,
  },
  'upstreams.*.password': {
    meaning: 'The password of that user, in quotes where it looks like a number.',
    unset: 'none',
  },
  'upstreams.*.passwordFile': {
    meaning: 'Instead of `password`; one newline at the end is dropped. Read again when it changes.',
    unset: 'none',
  },
  'upstreams.*.credentialsFile': {
    meaning: 'Instead of those three: a `config.json` of `docker login`; read again when it changes.',
    unset: 'none',
  },
  'upstreams.*.credentialHelper': {
    meaning: 'Or: `ecr-login` runs `docker-credential-ecr-login`, and again every five minutes.',
    unset: 'none',
  },
  'upstreams.*.credentials': {
    meaning:
      'Or several accounts, each with those keys: `{ username, passwordFile }`. ' +
      'The one with most pulls left is asked.',
    more: "[Docker Hub's budget](upstreams.md#docker-hubs-budget) has an example.",
  },
  'upstreams.*.tagTtl': { meaning: 'As `cache.tagTtl`, for this upstream.', unset: '`cache.tagTtl`' },
  'upstreams.*.allow': {
    meaning: "Globs over this registry's repository names that may be pulled.",
    unset: 'all of them',
  },
  'upstreams.*.deny': { meaning: 'Globs over names that may not be pulled; wins over `allow`.' },
  'upstreams.*.maxSize': {
    meaning: 'What this upstream may take of `cache.maxSize`.',
    unset: 'all of it',
  },
  'upstreams.*.offline': { meaning: '`true`: never ask this one.' },
  'upstreams.*.on404': {
    meaning: '`keep`: a tag that was deleted there goes on answering here, marked stale.',
  },
  'upstreams.*.immutableTags': {
    meaning: 'Globs over tags that never move: asked for once, and never again.',
  },
  'upstreams.*.reserve': {
    meaning:
      'With fewer pulls left than this, a tag that is cached is answered stale instead of spending one.',
  },
  'upstreams.*.ca': {
    meaning: "PEM file with the certificates to trust instead of the system's; read again when it changes.",
    unset: "the system's",
  },
  'upstreams.*.proxy': {
    meaning: 'For example http://proxy.example:3128.',
    unset: '`HTTPS_PROXY`, `HTTP_PROXY` and `NO_PROXY` of the environment',
  },
  'upstreams.*.maxConnections': { meaning: 'Connections to this upstream at once.' },
  'upstreams.*.timeouts.connect': { meaning: 'For one connection to be made.' },
  'upstreams.*.timeouts.headers': { meaning: 'From the request to the head of the answer.' },
  'upstreams.*.timeouts.idle': {
    meaning: 'Between two pieces of a body; there is no limit to a whole body.',
  },
  'upstreams.*.timeouts.minRate': {
    meaning:
      'Bytes per second, on the average of each `idle`; a slower body is asked for again; 0: no limit.',
  },
  'upstreams.*.segments.size': {
    meaning:
      'Layers of at least two of these come in such pieces over several connections, ' +
      'where upstream honours Range.',
  },
  'upstreams.*.segments.parallel': { meaning: 'Pieces of one layer at once; 1: never several.' },

  local: {
    meaning: 'Globs of names that are always ours, and that no upstream ever hears of: `team/**`.',
    more: '[Pushing](push.md) says what they are good for.',
  },

  push: {
    meaning:
      'Pushes go to names under a glob of `local`, or that were pushed here before; and, where `server.host` is a ' +
      "loopback address, to any name that is no upstream's and of which nothing was pulled through here. " +
      'The rest is refused, with the reason.',
    more: '[Pushing](push.md) has the whole rule.',
  },
  'push.anonymous': {
    meaning:
      '`true`: whoever reaches the port may push; else only programs on this machine, as `push.local` says.',
  },
  'push.deny': { meaning: 'Globs of names that nobody may push.' },
  'push.immutable': {
    meaning:
      'Tags that clients can neither move nor delete once they are pushed: ' +
      '`v*` in every repository, `team/**:v*` in some.',
  },
  'push.sessionTtl': { meaning: 'An upload that nobody continued for so long is given up.' },
  'push.local': {
    meaning: 'Whether programs on this machine may push without `push.anonymous`.',
    unset: '`true`, but `false` where `server.publicUrl` or `server.accelRedirect` is set',
  },
  'push.gcGrace': {
    meaning: 'How long what no manifest names any more is kept.',
    unset: '`push.sessionTtl`',
  },

  auth: { meaning: 'Has no keys yet: anyone may pull.' },

  notifications: {
    meaning: 'Who is told of what happens to images.',
    more: '[Notifications](notifications.md) says how, and what is in them.',
  },
  'notifications.*.url': {
    meaning: 'One POST for each event; also behind the proxies of the environment.',
    example: 'https://hooks.example/registry',
  },
  'notifications.*.headers': {
    meaning: 'A map of headers to send; a value may also be a list. They are never logged.',
    example: "{ Authorization: 'Bearer ${HOOK_TOKEN}' }",
  },
  'notifications.*.ignoreActions': {
    meaning: 'What this end-point is not told of: of `pull`, `push`, `mount` and `delete`.',
    example: '[pull]',
  },
  'notifications.*.timeout': { meaning: 'Of one attempt.' },
  'notifications.*.backoff': {
    meaning:
      'The longest pause between two attempts; the first is a quarter of a second, each further one the double.',
  },

  log: { meaning: 'What is logged.', more: '[The log](monitoring.md#the-log) has the fields.' },
  'log.level': { meaning: 'From `trace`, which says most, to `silent`.' },
}
