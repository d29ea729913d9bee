{{- define "headrace.name" -}}
{{- if contains "headrace" .Release.Name }}{{ .Release.Name | trunc 40 | trimSuffix "-" }}{{ else }}{{ printf "%s-headrace" (.Release.Name | trunc 31 | trimSuffix "-") }}{{ end -}}
{{- end }}

{{- define "headrace.selector" -}}
app.kubernetes.io/name: headrace
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "headrace.labels" -}}
{{ include "headrace.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end }}

{{- define "headrace.image" -}}
{{ .Values.image.repository }}{{ if .Values.image.digest }}@{{ .Values.image.digest }}{{ else }}:{{ .Values.image.tag | default .Chart.AppVersion }}{{ end }}
{{- end }}

{{- define "headrace.scheme" -}}
{{ if .Values.tls.secret }}HTTPS{{ else }}HTTP{{ end }}
{{- end }}

{{- define "headrace.nimName" -}}
{{ include "headrace.name" .root }}-{{ .role }}
{{- end }}

{{- /* Whether the claim of the KV cache is mounted, and its name. */ -}}
{{- define "headrace.kvClaim" -}}
{{- with .Values.kvCache }}
{{- if .existingClaim }}{{ .existingClaim }}{{ else if .storageClass }}{{ include "headrace.name" $ }}-kv-cache{{ end }}
{{- end }}
{{- end }}

{{- /* headrace.toml, without any secret: those come from the environment. */ -}}
{{- define "headrace.settings" -}}
{{- $v := .Values }}
{{- $tree := deepCopy $v.settings }}
{{- $api := dict "host" "0.0.0.0" }}
{{- with $v.origins }}{{ $_ := set $api "origins" . }}{{ end }}
{{- if $v.tls.secret }}{{ $_ := set $api "certificate" "/etc/headrace/tls/tls.crt" }}{{ $_ := set $api "key" "/etc/headrace/tls/tls.key" }}{{ end }}
{{- $_ := set $tree "api" $api }}
{{- if include "headrace.kvClaim" . }}
{{- $_ := set $tree "files" (dict "dir" "/var/lib/headrace-files" "kv_cache_bytes" (mul (int64 $v.kvCache.gib) 1073741824)) }}
{{- end }}
{{- with $v.objects }}{{ if .endpoint }}
{{- $_ := set $tree "objects" (dict "type" "s3" "endpoint" .endpoint "bucket" .bucket "region" .region) }}
{{- end }}{{ end }}
{{- with $v.tables }}{{ if .uri }}
{{- $_ := set $tree "tables" (dict "type" "rest" "uri" .uri "warehouse" .warehouse "properties" .properties) }}
{{- end }}{{ end }}
{{- with $v.kafka }}{{ if .bootstrap }}
{{- $_ := set $tree "head" (dict "type" "kafka" "bootstrap" .bootstrap "properties" .properties) }}
{{- end }}{{ end }}
{{- with $v.metadata }}{{ if .secret.name }}
{{- $_ := set $tree "metadata" (dict "type" "postgresql" "db_schema" .schema) }}
{{- end }}{{ end }}
{{- $models := dict }}
{{- /* Without these, training takes every processor of the node, whatever the pod requests. */ -}}
{{- $cpus := dig "requests" "cpu" "" $v.resources | toString }}
{{- if regexMatch "^[1-9][0-9]*$" $cpus }}
{{- $_ := set $models "threads" (int $cpus) }}
{{- $_ := set $tree "training" (merge (default dict (get $tree "training")) (dict "threads" (int $cpus))) }}
{{- end }}
{{- range $role, $model := $v.models }}
{{- if $model.nim.enabled }}
{{- $url := printf "http://%s:8000/v1" (include "headrace.nimName" (dict "root" $ "role" $role)) }}
{{- $_ := set $models $role (dict "type" "endpoint" "url" $url "model" $model.model) }}
{{- else if $model.url }}
{{- $_ := set $models $role (dict "type" "endpoint" "url" $model.url "model" $model.model) }}
{{- end }}
{{- end }}
{{- if $models }}{{ $_ := set $tree "models" $models }}{{ end }}
{{- if and $v.ray.enabled (include "headrace.raySharedClaim" .) }}
{{- $_ := set $tree "workers" (merge (dict "storage_path" "/var/lib/headrace-ray") (default dict (get $tree "workers"))) }}
{{- end }}
{{- /* Values hold every number as a float; a whole one is an integer in TOML. */ -}}
{{- regexReplaceAll `(?m)= (-?[0-9]+)\.0$` (toToml $tree) "= ${1}" | trim }}
{{- end }}

{{- define "headrace.secretVariable" -}}
- name: {{ .variable }}
  valueFrom: {secretKeyRef: {name: {{ .name | quote }}, key: {{ .key | quote }}}}
{{- end }}

{{- /* The environment of every container that runs Headrace: where its settings are, and its secrets by reference. */ -}}
{{- define "headrace.environment" -}}
{{- $v := .Values -}}
- {name: HEADRACE_SETTINGS, value: /etc/headrace/headrace.toml}
- {name: HEADRACE_HOME, value: /var/lib/headrace/home}
{{- with $v.objects }}{{ if .endpoint }}
{{ include "headrace.secretVariable" (dict "variable" "HEADRACE_OBJECTS__ACCESS_KEY" "name" .secret.name "key" .secret.accessKey) }}
{{ include "headrace.secretVariable" (dict "variable" "HEADRACE_OBJECTS__SECRET_KEY" "name" .secret.name "key" .secret.secretKey) }}
{{- end }}{{ end }}
{{- if $v.tables.uri }}{{ range $property, $from := $v.tables.secretProperties }}
{{ include "headrace.secretVariable" (dict "variable" (printf "HEADRACE_TABLES__PROPERTIES__%s" $property) "name" $from.name "key" $from.key) }}
{{- end }}{{ end }}
{{- if $v.kafka.bootstrap }}{{ range $property, $from := $v.kafka.secretProperties }}
{{ include "headrace.secretVariable" (dict "variable" (printf "HEADRACE_HEAD__PROPERTIES__%s" $property) "name" $from.name "key" $from.key) }}
{{- end }}
{{- with $v.kafka.signingKey }}{{ if .name }}
{{ include "headrace.secretVariable" (dict "variable" "HEADRACE_HEAD__SIGNING_KEY" "name" .name "key" .key) }}
{{- end }}{{ end }}{{ end }}
{{- with $v.metadata.secret }}{{ if .name }}
{{ include "headrace.secretVariable" (dict "variable" "HEADRACE_METADATA__URL" "name" .name "key" .key) }}
{{- end }}{{ end }}
{{- range $variable, $from := $v.secretEnv }}
{{ include "headrace.secretVariable" (dict "variable" $variable "name" $from.name "key" $from.key) }}
{{- end }}
{{- range $role, $model := $v.models }}{{ if and $model.url $model.apiKey.name }}
{{ include "headrace.secretVariable" (dict "variable" (printf "HEADRACE_MODELS__%s__API_KEY" (upper $role)) "name" $model.apiKey.name "key" $model.apiKey.key) }}
{{- end }}{{ end }}
{{- end }}

{{- define "headrace.podSecurity" -}}
runAsNonRoot: true
runAsUser: 10001
runAsGroup: 10001
fsGroup: 10001
fsGroupChangePolicy: OnRootMismatch
seccompProfile: {type: RuntimeDefault}
{{- end }}

{{- define "headrace.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end }}
