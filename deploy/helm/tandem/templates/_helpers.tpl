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

{{/* Longer than draining and the calls in flight together may take. Takes the service's values. */}}
{{- define "tandem.terminationSeconds" -}}
{{- add (ceil (addf .config.drainSeconds .config.graceSeconds)) (int .terminationMarginSeconds) }}
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
{{- if and (eq .Values.bundles.accessMode "ReadWriteOnce") (not .Values.bundles.existingClaim) (not .Values.singleNode) }}
  {{- fail "bundles.accessMode is ReadWriteOnce, and several pods share the bundle volume: use ReadWriteMany, or name a claim in bundles.existingClaim, or set singleNode: true to keep every pod on one node" }}
{{- end }}
{{- if and .Values.trainer.enabled (not .Values.trainer.dataClaim) }}
  {{- fail "trainer.enabled needs trainer.dataClaim: the name of the PersistentVolumeClaim with the tables to train on" }}
{{- end }}
{{- end }}

{{/* ---- Configuration files ---- */}}

{{/* The config of one service. A JSON string is a TOML string, and toToml would turn whole numbers into floats. */}}
{{- define "tandem.serviceToml" -}}
{{- $config := (index .root.Values .component).config -}}
host = "0.0.0.0"
port = {{ int $config.port }}
threads = {{ int $config.threads }}
registry = "/bundles"
{{- if not .root.Values.store.existingSecret.name }}
store = {{ toJson .root.Values.store.url }}
{{- end }}
bundle_poll_s = {{ toJson $config.bundlePollSeconds }}
drain_s = {{ toJson $config.drainSeconds }}
grace_s = {{ toJson $config.graceSeconds }}
reflection = {{ $config.reflection }}
log_level = {{ toJson $config.logLevel }}
{{- if eq .component "ranking" }}
retrieval_target = {{ toJson (default (printf "dns:///%s-retrieval:%d" (include "tandem.fullname" .root) (int .root.Values.retrieval.config.port)) $config.retrievalTarget) }}
retrieval_timeout_ms = {{ int $config.retrievalTimeoutMs }}
policy_file = "/etc/tandem/policy.toml"
{{- end }}
{{- end }}

{{/* The data of one ConfigMap; its checksum rolls the pods. */}}
{{- define "tandem.configData" -}}
{{- if eq .component "trainer" -}}
train.toml: {{ toJson .root.Values.trainer.config }}
{{- else -}}
{{ .component }}.toml: |
  {{- include "tandem.serviceToml" . | nindent 2 }}
{{- if eq .component "ranking" }}
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

{{/* One probe. Takes probe (its timing), port and service (the name in grpc.health.v1). */}}
{{- define "tandem.grpcProbe" -}}
grpc:
  port: {{ int .port }}
  service: {{ .service }}
periodSeconds: {{ int .probe.periodSeconds }}
timeoutSeconds: {{ int .probe.timeoutSeconds }}
failureThreshold: {{ int .probe.failureThreshold }}
{{- end }}
