{{/* ---- Names and labels ---- */}}

{{- define "tandem.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" }}
{{- end }}

{{/* 42 characters, and 10 for the longest suffix ("-retrieval"): a CronJob's name may have 52 in all. */}}
{{- define "tandem.fullname" -}}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride | trunc 42 | trimSuffix "-" }}
{{- else }}
{{- $name := default .Chart.Name .Values.nameOverride }}
{{- if contains $name .Release.Name }}
{{- .Release.Name | trunc 42 | trimSuffix "-" }}
{{- else }}
{{- printf "%s-%s" .Release.Name $name | trunc 42 | trimSuffix "-" }}
{{- end }}
{{- end }}
{{- end }}

{{- define "tandem.serviceAccountName" -}}
{{- if .Values.serviceAccount.create }}
{{- default (include "tandem.fullname" .) .Values.serviceAccount.name }}
{{- else }}
{{- default "default" .Values.serviceAccount.name }}
{{- end }}
{{- end }}

{{/* Never changes in a release's life: a Deployment's selector is immutable. Takes root and component. */}}
{{- define "tandem.selectorLabels" -}}
app.kubernetes.io/name: {{ include "tandem.name" .root }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end }}

{{- define "tandem.labels" -}}
{{ include "tandem.selectorLabels" . }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/part-of: tandem
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
{{- end }}

{{/* Takes root and image. */}}
{{- define "tandem.image" -}}
{{- if .image.digest }}
{{- printf "%s@%s" .image.repository .image.digest }}
{{- else }}
{{- printf "%s:%s" .image.repository (default .root.Chart.AppVersion .image.tag) }}
{{- end }}
{{- end }}

{{/* ---- Decisions drawn from the values ---- */}}

{{/* "true" or nothing. A Secret counts as Redis: its content can't be seen here. */}}
{{- define "tandem.sqlite" -}}
{{- if and (not .Values.store.existingSecret.name) (hasPrefix "sqlite:" .Values.store.url) }}true{{ end }}
{{- end }}

{{/* "true" or nothing: the two services must run on one node. */}}
{{- define "tandem.colocated" -}}
{{- if or .Values.singleNode (include "tandem.sqlite" .) }}true{{ end }}
{{- end }}

{{- define "tandem.bundlesClaim" -}}
{{- default (printf "%s-bundles" (include "tandem.fullname" .)) .Values.bundles.existingClaim }}
{{- end }}

{{- define "tandem.sqliteClaim" -}}
{{- default (printf "%s-store" (include "tandem.fullname" .)) .Values.store.sqlite.existingClaim }}
{{- end }}

{{- define "tandem.s3" -}}
{{- if .Values.bundles.s3.url }}true{{ end }}
{{- end }}

{{/* Takes root and component. A pod sees all cores of its node: what counts is its limit, "2", "1500m" or 2. */}}
{{- define "tandem.workers" -}}
{{- $service := index .root.Values .component }}
{{- $wanted := int $service.config.workers }}
{{- $cpu := toString (default 1 (dig "limits" "cpu" 1 (default dict $service.resources))) }}
{{- $cores := int (floor (float64 $cpu)) }}
{{- if hasSuffix "m" $cpu }}
{{- $cores = div (int64 (trimSuffix "m" $cpu)) 1000 }}
{{- end }}
{{- if $wanted }}{{ $wanted }}{{ else if .root.Values.envoy.enabled }}{{ min 64 (max 1 $cores) }}{{ else }}1{{ end }}
{{- end }}

{{/* A JSON list: the ports of all workers of a service. Takes root and component. */}}
{{- define "tandem.workerPorts" -}}
{{- $port := int (index .root.Values .component).config.port }}
{{- $ports := list }}
{{- range $k := until (int (include "tandem.workers" .)) }}
{{- $ports = append $ports (add $port $k) }}
{{- end }}
{{- toJson $ports }}
{{- end }}

{{/* Draining (of the workers, then of the admin port) and the calls in flight end earlier. Takes root and component. */}}
{{- define "tandem.terminationSeconds" -}}
{{- $service := index .root.Values .component }}
{{- $configs := list $service.config }}
{{- if eq .component "ranking" }}
{{- $configs = append $configs .root.Values.writer.config }}
{{- end }}
{{- $longest := 0.0 }}
{{- range $config := $configs }}
{{- $longest = maxf $longest (addf $config.drainSeconds $config.drainSeconds $config.graceSeconds) }}
{{- end }}
{{- add (ceil $longest) (int $service.terminationMarginSeconds) }}
{{- end }}

{{/* The store's URL with the options that name mounted files. */}}
{{- define "tandem.storeUrl" -}}
{{- $options := list }}
{{- if .Values.store.passwordSecret.name }}
{{- $options = append $options "password_file=/etc/tandem-store/password" }}
{{- end }}
{{- if .Values.store.suppressionKeySecret.name }}
{{- $options = append $options "suppression_key_file=/etc/tandem-store/suppression-key" }}
{{- end }}
{{- .Values.store.url }}{{ if $options }}{{ ternary "&" "?" (contains "?" .Values.store.url) }}{{ join "&" $options }}{{ end }}
{{- end }}

{{/* Refuses what would render, start and then lose data or never be scheduled. */}}
{{- define "tandem.validate" -}}
{{- $root := . }}
{{- if not (regexMatch "^[a-z]([-a-z0-9]*[a-z0-9])?$" (include "tandem.fullname" .)) }}
  {{- fail (printf "%s can't begin the name of a Service (a letter first, then letters, digits and -): set fullnameOverride" (include "tandem.fullname" .)) }}
{{- end }}
{{- range $component := list "retrieval" "ranking" }}
  {{- $service := index $root.Values $component }}
  {{- $scaling := $service.autoscaling }}
  {{- if and $scaling.enabled (gt (int $scaling.minReplicas) (int $scaling.maxReplicas)) }}
    {{- fail (printf "%s.autoscaling: minReplicas (%d) is above maxReplicas (%d)" $component (int $scaling.minReplicas) (int $scaling.maxReplicas)) }}
  {{- end }}
  {{- if and (gt (int (include "tandem.workers" (dict "root" $root "component" $component))) 1) (not $root.Values.envoy.enabled) }}
    {{- fail (printf "%s.config.workers is %d: DNS carries no ports, so that several workers of a pod can only be reached through Envoy. Set envoy.enabled: true, or run more pods with one worker each" $component (int $service.config.workers)) }}
  {{- end }}
  {{- if lt (mulf $service.config.graceSeconds 1000.0) (float64 $root.Values.ranking.config.retrievalTimeoutMs) }}
    {{- fail (printf "%s.config.graceSeconds (%v) is below ranking.config.retrievalTimeoutMs (%d): a stopping pod would cut off calls that still may be answered" $component $service.config.graceSeconds (int $root.Values.ranking.config.retrievalTimeoutMs)) }}
  {{- end }}
  {{- $pods := ternary (int $scaling.maxReplicas) (int $service.replicas) $scaling.enabled }}
  {{- $key := ternary "autoscaling.maxReplicas" "replicas" $scaling.enabled }}
  {{- if and (include "tandem.sqlite" $root) (gt $pods 1) }}
    {{- fail (printf "several pods need a Redis store: %s.%s is %d and store.url is %s. Set store.url to redis://..., or store.existingSecret.name to a Secret with such a URL, or run one pod of each service" $component $key $pods $root.Values.store.url) }}
  {{- end }}
{{- end }}
{{- if and (include "tandem.sqlite" .) (not (regexMatch "^sqlite:////var/lib/tandem/[A-Za-z0-9][^/]*$" .Values.store.url)) }}
  {{- fail (printf "store.url is %s: the SQLite file must lie on its volume, sqlite:////var/lib/tandem/<file> (four slashes: an absolute path)" .Values.store.url) }}
{{- end }}
{{- if and (not .Values.store.existingSecret.name) (contains "@" .Values.store.url) }}
  {{- fail "store.url holds a user or a password, and would stand readable in a ConfigMap: put the URL into a Secret and name it in store.existingSecret.name" }}
{{- end }}
{{- if and (eq .Values.bundles.accessMode "ReadWriteOnce") (not (include "tandem.s3" .)) (not .Values.bundles.existingClaim) (not .Values.singleNode) }}
  {{- fail "bundles.accessMode is ReadWriteOnce, and several pods share the bundle volume: use ReadWriteMany, or name a claim in bundles.existingClaim, or set singleNode: true to keep every pod on one node" }}
{{- end }}
{{- if and .Values.store.passwordSecret.name (or .Values.store.existingSecret.name (include "tandem.sqlite" .)) }}
  {{- fail "store.passwordSecret belongs to a Redis address in store.url; a URL in store.existingSecret holds its password itself, and SQLite has none" }}
{{- end }}
{{- if and .Values.store.suppressionKeySecret.name .Values.store.existingSecret.name }}
  {{- fail "store.suppressionKeySecret is added to store.url, which store.existingSecret replaces: use store.url with store.passwordSecret" }}
{{- end }}
{{- if and (include "tandem.s3" .) .Values.bundles.existingClaim }}
  {{- fail "bundles.s3.url and bundles.existingClaim are two registries: set one of them" }}
{{- end }}
{{- if and .Values.bundles.s3.existingSecret (not (include "tandem.s3" .)) }}
  {{- fail "bundles.s3.existingSecret needs bundles.s3.url: s3://bucket/prefix" }}
{{- end }}
{{- if and .Values.tls.enabled (not .Values.tls.secretName) }}
  {{- fail "tls.enabled needs tls.secretName: the name of a Secret with tls.crt, tls.key and ca.crt" }}
{{- end }}
{{- if and .Values.tls.enabled (not .Values.tls.serverName) }}
  {{- fail "tls.enabled needs tls.serverName: a name in tls.crt that every pod answers to. Callers that resolve a headless Service see addresses, and ranking and the probes check this name instead" }}
{{- end }}
{{- if and .Values.tls.clientAuth (not .Values.tls.enabled) }}
  {{- fail "tls.clientAuth needs tls.enabled: certificates of callers travel in TLS" }}
{{- end }}
{{- if and .Values.tls.enabled (or .Values.ingress.enabled .Values.grpcRoute.enabled) }}
  {{- fail "tls.enabled is TLS of the pods themselves, and Ingress and gateway of this chart speak plaintext to them: end TLS at one place" }}
{{- end }}
{{- if and .Values.ingress.enabled (or (not .Values.ingress.host) (not .Values.ingress.tlsSecretName)) }}
  {{- fail "ingress.enabled needs ingress.host and ingress.tlsSecretName: gRPC from outside without TLS would show who sees what" }}
{{- end }}
{{- if and .Values.grpcRoute.enabled (or (not .Values.grpcRoute.gateway.name) (not .Values.grpcRoute.hostnames)) }}
  {{- fail "grpcRoute.enabled needs grpcRoute.gateway.name, a Gateway whose listener has a certificate, and grpcRoute.hostnames" }}
{{- end }}
{{- if and .Values.metrics.serviceMonitor.enabled (not .Values.metrics.enabled) }}
  {{- fail "metrics.serviceMonitor.enabled needs metrics.enabled: there is nothing to scrape" }}
{{- end }}
{{- if and .Values.ranking.decisions.existingClaim (or .Values.ranking.autoscaling.enabled (gt (int .Values.ranking.replicas) 1)) }}
  {{- fail "ranking.decisions.existingClaim is for one ranking pod: the records of several would meet in one folder. Leave it empty, and each pod keeps its own" }}
{{- end }}
{{- range $component := list "retrieval" "ranking" }}
  {{- $config := (index $root.Values $component).config }}
  {{- $ports := include "tandem.workerPorts" (dict "root" $root "component" $component) | fromJsonArray }}
  {{- if $config.adminPort }}
    {{- $ports = append $ports $config.adminPort }}
  {{- end }}
  {{- if $root.Values.metrics.enabled }}
    {{- $ports = append $ports $root.Values.metrics.port }}
  {{- end }}
  {{- if eq $component "ranking" }}
    {{- $ports = append $ports $root.Values.writer.config.port }}
    {{- if $root.Values.metrics.enabled }}
      {{- $ports = append $ports $root.Values.metrics.writerPort }}
    {{- end }}
  {{- end }}
  {{- $numbers := list }}
  {{- range $port := $ports }}
    {{- $numbers = append $numbers (int $port) }}
  {{- end }}
  {{- if ne (len $numbers) (len (uniq $numbers)) }}
    {{- fail (printf "the %s pod would use a port twice: %s (its workers', %s.config.adminPort, metrics.port%s)" $component (toJson $numbers) $component (ternary ", writer.config.port, metrics.writerPort" "" (eq $component "ranking"))) }}
  {{- end }}
{{- end }}
{{- if .Values.envoy.enabled }}
  {{- $ports := list (int .Values.retrieval.config.port) (int .Values.ranking.config.port) (int .Values.writer.config.port) (int .Values.envoy.readyPort) 9901 }}
  {{- if ne (len $ports) (len (uniq $ports)) }}
    {{- fail (printf "Envoy would listen on a port twice: %s (those of retrieval, ranking and writer, envoy.readyPort, 9901)" (toJson $ports)) }}
  {{- end }}
{{- end }}
{{- range $component := list "retrieval" "ranking" "writer" }}
  {{- if and (index $root.Values $component).config.ratePerSecond $root.Values.envoy.enabled (not $root.Values.tokens.existingSecret) }}
    {{- fail (printf "%s.config.ratePerSecond without tokens counts calls by address, and behind Envoy every caller has Envoy's: set tokens.existingSecret" $component) }}
  {{- end }}
{{- end }}
{{- if and .Values.trainer.enabled (not .Values.trainer.dataClaim) }}
  {{- fail "trainer.enabled needs trainer.dataClaim: the name of the PersistentVolumeClaim with the tables to train on" }}
{{- end }}
{{- end }}

{{/* ---- Configuration files ---- */}}

{{/* The config of one process: retrieval, ranking or writer. A JSON string is a TOML string, and toToml would turn
whole numbers into floats. */}}
{{- define "tandem.serviceToml" -}}
{{- $values := .root.Values }}
{{- $config := (index $values .component).config -}}
host = "0.0.0.0"
port = {{ int $config.port }}
{{- if ne .component "writer" }}
workers = {{ include "tandem.workers" . }}
{{- end }}
threads = {{ int $config.threads }}
max_concurrent_rpcs = {{ int $config.maxConcurrentRpcs }}
max_queue_ms = {{ toJson $config.maxQueueMs }}
registry = {{ toJson (default "/bundles" $values.bundles.s3.url) }}
{{- if include "tandem.s3" .root }}
registry_cache = "/var/cache/tandem"
{{- end }}
{{- if not $values.store.existingSecret.name }}
store = {{ include "tandem.storeUrl" .root | quote }}
{{- end }}
bundle_poll_s = {{ toJson $config.bundlePollSeconds }}
{{- if and (ne .component "writer") $config.adminPort }}
admin_port = {{ int $config.adminPort }}
{{- end }}
drain_s = {{ toJson $config.drainSeconds }}
grace_s = {{ toJson $config.graceSeconds }}
max_connection_age_s = {{ toJson $config.maxConnectionAgeSeconds }}
{{- if $config.ratePerSecond }}
rate_per_s = {{ toJson $config.ratePerSecond }}
rate_burst = {{ int $config.rateBurst }}
{{- end }}
{{- if $values.tls.enabled }}
tls_cert = "/etc/tandem-tls/tls.crt"
tls_key = "/etc/tandem-tls/tls.key"
{{- if $values.tls.clientAuth }}
tls_client_ca = "/etc/tandem-tls/ca.crt"
{{- end }}
{{- end }}
{{- if $values.tokens.existingSecret }}
tokens_file = "/etc/tandem-tokens/tokens.toml"
{{- end }}
{{- if $values.metrics.enabled }}
metrics_port = {{ int (ternary $values.metrics.writerPort $values.metrics.port (eq .component "writer")) }}
{{- end }}
{{- if $values.tracing.otlpEndpoint }}
otlp_endpoint = {{ toJson $values.tracing.otlpEndpoint }}
trace_ratio = {{ toJson $values.tracing.ratio }}
{{- end }}
reflection = {{ $config.reflection }}
log_level = {{ toJson $config.logLevel }}
{{- if eq .component "ranking" }}
retrieval_target = {{ toJson (default (include "tandem.retrievalTarget" .root) $config.retrievalTarget) }}
retrieval_timeout_ms = {{ int $config.retrievalTimeoutMs }}
{{- if $values.tls.enabled }}
retrieval_tls_ca = "/etc/tandem-tls/ca.crt"
{{- if $values.tls.clientAuth }}
retrieval_tls_cert = "/etc/tandem-tls/tls.crt"
retrieval_tls_key = "/etc/tandem-tls/tls.key"
{{- end }}
retrieval_tls_name = {{ toJson $values.tls.serverName }}
{{- end }}
{{- if $values.tokens.existingSecret }}
retrieval_token_file = "/etc/tandem-tokens/retrieval-token"
{{- end }}
policy_file = "/etc/tandem/policy.toml"
{{- end }}
{{- if and (ne .component "retrieval") $values.ranking.decisions.enabled }}
decisions = "/var/lib/tandem-decisions"
{{- if eq .component "ranking" }}
decisions_sample = {{ toJson $values.ranking.decisions.sample }}
decisions_keep_hours = {{ toJson $values.ranking.decisions.keepHours }}
{{- end }}
{{- end }}
{{- end }}

{{/* Where this release's retrieval is called: at its pods, or through Envoy. */}}
{{- define "tandem.retrievalTarget" -}}
dns:///{{ include "tandem.fullname" . }}-{{ ternary "envoy" "retrieval" .Values.envoy.enabled }}:{{ int .Values.retrieval.config.port }}
{{- end }}

{{/* A YAML list: what Envoy leads to. Reads are sent again when a pod dies with them; writes only where no pod had
them yet, since an event without an insert_id would be stored twice. */}}
{{- define "tandem.envoyRoutes" -}}
{{- $reads := "connect-failure,refused-stream,reset,unavailable" }}
{{- range $component := list "retrieval" "ranking" }}
- name: {{ $component }}
  port: {{ int (index $.Values $component).config.port }}
  host: {{ include "tandem.fullname" $ }}-{{ $component }}
  workerPorts: {{ include "tandem.workerPorts" (dict "root" $ "component" $component) }}
  health: {{ include "tandem.healthName" $component }}
  retryOn: {{ $reads }}
{{- end }}
- name: writer
  port: {{ int .Values.writer.config.port }}
  host: {{ include "tandem.fullname" . }}-ranking
  workerPorts: [{{ int .Values.writer.config.port }}]
  health: {{ include "tandem.healthName" "writer" }}
  retryOn: connect-failure,refused-stream
{{- end }}

{{/* In grpc.health.v1. */}}
{{- define "tandem.healthName" -}}
{{- get (dict "retrieval" "tandem.retrieval.v1.RetrievalService" "ranking" "tandem.ranking.v1.RankingService" "writer" "tandem.events.v1.EventService") . }}
{{- end }}

{{/* The data of one ConfigMap; its checksum rolls the pods. */}}
{{- define "tandem.configData" -}}
{{- if eq .component "trainer" -}}
train.toml: {{ toJson .root.Values.trainer.config }}
{{- else -}}
{{ .component }}.toml: |
  {{- include "tandem.serviceToml" . | nindent 2 }}
{{- if eq .component "ranking" }}
writer.toml: |
  {{- include "tandem.serviceToml" (dict "root" .root "component" "writer") | nindent 2 }}
policy.toml: {{ toJson .root.Values.ranking.policy }}
{{- end }}
{{- end }}
{{- end }}

{{/* ---- Parts of pods ---- */}}

{{- define "tandem.podSecurityContext" -}}
runAsNonRoot: true
runAsUser: {{ int .Values.podSecurityContext.runAsUser }}
runAsGroup: {{ int .Values.podSecurityContext.runAsGroup }}
fsGroup: {{ int .Values.podSecurityContext.fsGroup }}
fsGroupChangePolicy: OnRootMismatch
seccompProfile:
  type: RuntimeDefault
{{- end }}

{{- define "tandem.containerSecurityContext" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end }}

{{/* The head of a pod's spec. Takes root and values (of the component). */}}
{{- define "tandem.podSpecHead" -}}
serviceAccountName: {{ include "tandem.serviceAccountName" .root }}
automountServiceAccountToken: false
# A Service named tandem-retrieval would set TANDEM_RETRIEVAL_PORT=tcp://..., which is one of our own settings.
enableServiceLinks: false
securityContext:
  {{- include "tandem.podSecurityContext" .root | nindent 2 }}
{{- with .root.Values.imagePullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .values.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .values.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{/* On the node where the services are. The first pod is let in by matching its own term. */}}
{{- define "tandem.sameNode" -}}
podAffinity:
  requiredDuringSchedulingIgnoredDuringExecution:
    - topologyKey: kubernetes.io/hostname
      labelSelector:
        matchLabels:
          app.kubernetes.io/name: {{ include "tandem.name" . }}
          app.kubernetes.io/instance: {{ .Release.Name }}
        matchExpressions:
          - key: app.kubernetes.io/component
            operator: In
            values: [retrieval, ranking]
{{- end }}

{{/* The three probes of a container. Takes root and component. "liveness" is SERVING while the process is up, the
service's own name only while it can answer. Kubernetes' gRPC probes speak no TLS: then the image's own check is run. */}}
{{- define "tandem.probes" -}}
{{- range $name := list "startup" "liveness" "readiness" }}
{{- $scope := merge (dict "probe" $name) $ }}
{{ $name }}Probe:
  {{- include "tandem.probe" $scope | nindent 2 }}
{{- end }}
{{- end }}

{{- define "tandem.probe" -}}
{{- $values := .root.Values }}
{{- $port := int (index $values .component).config.port }}
{{- $service := ternary (include "tandem.healthName" .component) "liveness" (eq .probe "readiness") }}
{{- if and (eq .probe "liveness") $values.metrics.enabled (ne .component "writer") -}}
# The side process answers, however busy the workers are.
httpGet:
  path: /healthz
  port: metrics
{{- else if $values.tls.enabled -}}
exec:
  command:
    - python
    - /opt/tandem/healthcheck.py
    - {{ $port | quote }}
    - {{ $service }}
    - --tls-name={{ $values.tls.serverName }}
    - --ca=/etc/tandem-tls/ca.crt
    {{- if $values.tls.clientAuth }}
    - --cert=/etc/tandem-tls/tls.crt
    - --key=/etc/tandem-tls/tls.key
    {{- end }}
{{- else -}}
grpc:
  port: {{ $port }}
  service: {{ $service }}
{{- end }}
{{- $timing := index $values.probes .probe }}
periodSeconds: {{ int $timing.periodSeconds }}
timeoutSeconds: {{ int $timing.timeoutSeconds }}
failureThreshold: {{ int $timing.failureThreshold }}
{{- end }}

{{/* Where S3 is and who we are to it. */}}
{{- define "tandem.s3Env" -}}
{{- with .Values.bundles.s3 }}
{{- if .url }}
{{- with .endpoint }}
- name: AWS_ENDPOINT_URL
  value: {{ . | quote }}
{{- end }}
{{- with .region }}
- name: AWS_DEFAULT_REGION
  value: {{ . | quote }}
{{- end }}
{{- if .existingSecret }}
{{- range $key := list "AWS_ACCESS_KEY_ID" "AWS_SECRET_ACCESS_KEY" }}
- name: {{ $key }}
  valueFrom:
    secretKeyRef:
      name: {{ $.Values.bundles.s3.existingSecret }}
      key: {{ $key }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}

{{/* One container of a service pod. Takes root and component: retrieval, ranking or writer. */}}
{{- define "tandem.container" -}}
{{- $root := .root }}
{{- $values := .root.Values }}
{{- $component := .component }}
{{- $process := index $values $component -}}
name: {{ $component }}
image: {{ include "tandem.image" (dict "root" $root "image" $values.image) | quote }}
imagePullPolicy: {{ $values.image.pullPolicy }}
command: [python, -m, {{ ternary "tandem_ranking.writer" (printf "tandem_%s" $component) (eq $component "writer") }}]
args: [--config, /etc/tandem/{{ $component }}.toml]
env:
  # One thread per library: more of them turn small products into milliseconds on shared cores.
  - name: OMP_NUM_THREADS
    value: "1"
  - name: OPENBLAS_NUM_THREADS
    value: "1"
  - name: MKL_NUM_THREADS
    value: "1"
  {{- if and (eq $component "writer") (include "tandem.sqlite" $root) }}
  # VACUUM writes the whole file once more, which may not fit into /tmp.
  - name: SQLITE_TMPDIR
    value: /var/lib/tandem
  {{- end }}
  {{- with $values.store.existingSecret }}
  {{- if .name }}
  - name: TANDEM_{{ upper $component }}_STORE
    valueFrom:
      secretKeyRef:
        name: {{ .name }}
        key: {{ .key }}
  {{- end }}
  {{- end }}
  {{- if ne $component "writer" }}
  {{- with include "tandem.s3Env" $root }}
  {{- . | nindent 2 }}
  {{- end }}
  {{- end }}
ports:
  {{- if eq $component "writer" }}
  - name: events
    containerPort: {{ int $process.config.port }}
    protocol: TCP
  {{- if $values.metrics.enabled }}
  - name: metrics-events
    containerPort: {{ int $values.metrics.writerPort }}
    protocol: TCP
  {{- end }}
  {{- else }}
  {{- range $k, $port := include "tandem.workerPorts" . | fromJsonArray }}
  - name: grpc{{ if $k }}-{{ $k }}{{ end }}
    containerPort: {{ int $port }}
    protocol: TCP
  {{- end }}
  {{- if $values.metrics.enabled }}
  - name: metrics
    containerPort: {{ int $values.metrics.port }}
    protocol: TCP
  {{- end }}
  {{- end }}
{{- include "tandem.probes" . }}
securityContext:
  {{- include "tandem.containerSecurityContext" $root | nindent 2 }}
{{- with $process.resources }}
resources:
  {{- toYaml . | nindent 2 }}
{{- end }}
volumeMounts:
  - name: config
    mountPath: /etc/tandem
    readOnly: true
  {{- if include "tandem.s3" $root }}
  - name: bundle-cache
    mountPath: /var/cache/tandem
    {{- if eq $component "writer" }}
    readOnly: true  # ranking's side process copies, for both
    {{- end }}
  {{- else }}
  - name: bundles
    mountPath: /bundles
    readOnly: true
  {{- end }}
  - name: tmp
    mountPath: /tmp
    subPath: {{ $component }}
  {{- if include "tandem.sqlite" $root }}
  - name: store
    mountPath: /var/lib/tandem
  {{- end }}
  {{- if include "tandem.storeFiles" $root }}
  - name: store-files
    mountPath: /etc/tandem-store
    readOnly: true
  {{- end }}
  {{- if $values.tls.enabled }}
  - name: tls
    mountPath: /etc/tandem-tls
    readOnly: true
  {{- end }}
  {{- if $values.tokens.existingSecret }}
  - name: tokens
    mountPath: /etc/tandem-tokens
    readOnly: true
  {{- end }}
  {{- if and (ne $component "retrieval") $values.ranking.decisions.enabled }}
  - name: decisions
    mountPath: /var/lib/tandem-decisions
  {{- end }}
{{- end }}

{{- define "tandem.storeFiles" -}}
{{- if or .Values.store.passwordSecret.name .Values.store.suppressionKeySecret.name }}true{{ end }}
{{- end }}

{{/* Of a service pod. Takes root and component: retrieval or ranking. */}}
{{- define "tandem.volumes" -}}
{{- $root := .root }}
{{- $values := .root.Values -}}
- name: config
  configMap:
    name: {{ include "tandem.fullname" $root }}-{{ .component }}
{{- if include "tandem.s3" $root }}
- name: bundle-cache
  emptyDir:
    sizeLimit: {{ $values.bundles.s3.cacheSize }}
{{- else }}
- name: bundles
  persistentVolumeClaim:
    claimName: {{ include "tandem.bundlesClaim" $root }}
{{- end }}
- name: tmp
  emptyDir:
    sizeLimit: 256Mi
{{- if include "tandem.sqlite" $root }}
- name: store
  persistentVolumeClaim:
    claimName: {{ include "tandem.sqliteClaim" $root }}
{{- end }}
{{- if include "tandem.storeFiles" $root }}
- name: store-files
  projected:
    defaultMode: 0440
    sources:
      {{- with $values.store.passwordSecret }}
      {{- if .name }}
      - secret:
          name: {{ .name }}
          items: [{ key: {{ .key }}, path: password }]
      {{- end }}
      {{- end }}
      {{- with $values.store.suppressionKeySecret }}
      {{- if .name }}
      - secret:
          name: {{ .name }}
          items: [{ key: {{ .key }}, path: suppression-key }]
      {{- end }}
      {{- end }}
{{- end }}
{{- if $values.tls.enabled }}
- name: tls
  secret:
    secretName: {{ $values.tls.secretName }}
    defaultMode: 0440
{{- end }}
{{- if $values.tokens.existingSecret }}
- name: tokens
  secret:
    secretName: {{ $values.tokens.existingSecret }}
    defaultMode: 0440
    items:
      - { key: {{ $values.tokens.key }}, path: tokens.toml }
      {{- if eq .component "ranking" }}
      - { key: {{ $values.tokens.retrievalTokenKey }}, path: retrieval-token }
      {{- end }}
{{- end }}
{{- if and (eq .component "ranking") $values.ranking.decisions.enabled }}
- name: decisions
  {{- if $values.ranking.decisions.existingClaim }}
  persistentVolumeClaim:
    claimName: {{ $values.ranking.decisions.existingClaim }}
  {{- else }}
  emptyDir:
    sizeLimit: {{ $values.ranking.decisions.size }}
  {{- end }}
{{- end }}
{{- end }}
