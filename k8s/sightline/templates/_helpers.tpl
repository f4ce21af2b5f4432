{{/* Names, labels and the arithmetic of stopping. */}}

{{- define "sightline.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 40 | trimSuffix "-" -}}
{{- end -}}

{{- define "sightline.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- $name := include "sightline.name" . -}}
{{- ternary .Release.Name (printf "%s-%s" .Release.Name $name) (contains $name .Release.Name) | trunc 40 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{/* (dict "root" $ "component" "server"): what never changes in the life of an object. */}}
{{- define "sightline.selectorLabels" -}}
app.kubernetes.io/name: {{ include "sightline.name" .root }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
{{- with .component }}
app.kubernetes.io/component: {{ . }}
{{- end }}
{{- end -}}

{{- define "sightline.labels" -}}
{{ include "sightline.selectorLabels" . }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
app.kubernetes.io/part-of: sightline
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version }}
{{- with .root.Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- define "sightline.serviceAccountName" -}}
{{- default (ternary (include "sightline.fullname" .) "default" .Values.serviceAccount.create) .Values.serviceAccount.name -}}
{{- end -}}

{{/* (dict "root" $ "of" .Values.server): registry/repository@digest or :tag. */}}
{{- define "sightline.image" -}}
{{- with .root.Values.image.registry }}{{ . }}/{{ end -}}
{{- .of.image.repository -}}
{{- if .of.gpu.enabled }}{{ .of.gpu.imageSuffix }}{{ end -}}
{{- if .of.image.digest }}@{{ .of.image.digest }}{{ else }}:{{ default .root.Chart.AppVersion .root.Values.image.tag }}{{ end -}}
{{- end -}}

{{/* Where the collection is, in every pod. */}}
{{- define "sightline.collection" -}}
{{- if eq .Values.collection.source "demo" -}}/collection/demo{{- else -}}
{{- with .Values.collection.path }}/collection/{{ . }}{{ else }}/collection{{ end -}}{{- end -}}
{{- end -}}

{{/* The settings file: what the values say, and what only the chart knows. JSON's scalars and lists are TOML's too. */}}
{{- define "sightline.settings" -}}
{{- $own := dict -}}
{{- if ne .Values.collection.source "none" }}{{ $_ := set $own "collection" (include "sightline.collection" .) }}{{ end -}}
{{- with .Values.encoder.spec }}{{ $_ := set $own "encoder" . }}{{ end -}}
{{- if .Values.auth.existingSecret -}}
{{- with .Values.auth.apiKeysKey }}{{ $_ := set $own "api_keys_file" (printf "/etc/sightline/keys/%s" .) }}{{ end -}}
{{- with .Values.auth.adminKeysKey }}{{ $_ := set $own "admin_keys_file" (printf "/etc/sightline/keys/%s" .) }}{{ end -}}
{{- end -}}
{{- if .Values.auth.allowUnauthenticated }}{{ $_ := set $own "allow_unauthenticated" true }}{{ end -}}
{{- range $name, $value := mergeOverwrite (deepCopy .Values.settings) $own }}
{{- if not (kindIs "invalid" $value) }}
{{ $name }} = {{ toJson $value }}
{{- end }}
{{- end }}
{{- end -}}

{{/* From the first word of the end to the last: preStop, delay, drain, and 5 s for the last answers. */}}
{{- define "sightline.drainSeconds" -}}
{{- $settings := .Values.settings -}}
{{- $sum := addf (default 0 $settings.drain_delay_seconds) (default 0 $settings.drain_timeout_seconds) .Values.server.preStopSleepSeconds 5 -}}
{{- ceil $sum | int -}}
{{- end -}}

{{- define "sightline.gracePeriodSeconds" -}}
{{- $needed := include "sightline.drainSeconds" . | int -}}
{{- $given := .Values.server.terminationGracePeriodSeconds -}}
{{- if and (not (kindIs "invalid" $given)) (lt (int $given) $needed) -}}
{{- fail (printf "server.terminationGracePeriodSeconds is %d, but draining takes up to %d s; raise it, or lower settings.drain_timeout_seconds." (int $given) $needed) -}}
{{- end -}}
{{- if kindIs "invalid" $given }}{{ add $needed 5 }}{{ else }}{{ int $given }}{{ end -}}
{{- end -}}

{{- define "sightline.podSecurityContext" -}}
runAsNonRoot: true
runAsUser: 10001
runAsGroup: 10001
fsGroup: 10001
fsGroupChangePolicy: OnRootMismatch
seccompProfile: {type: RuntimeDefault}
{{- end -}}

{{- define "sightline.securityContext" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
runAsNonRoot: true
runAsUser: 10001
capabilities: {drop: [ALL]}
seccompProfile: {type: RuntimeDefault}
{{- end -}}

{{/* (dict "root" $ "of" .Values.server): variables that every container of ours has. */}}
{{- define "sightline.env" -}}
- {name: HOME, value: /tmp}
- {name: HF_HOME, value: {{ ternary "/models" "/tmp/huggingface" .root.Values.encoder.hub }}}
- {name: HF_HUB_OFFLINE, value: {{ ternary "0" "1" .root.Values.encoder.hub | quote }}}
{{- with .of.env }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* (dict "of" .Values.server): its resources, with a GPU where it has one. */}}
{{- define "sightline.resources" -}}
{{- $resources := deepCopy .of.resources -}}
{{- if .of.gpu.enabled -}}
{{- $limits := default dict $resources.limits -}}
{{- $_ := set $limits .of.gpu.resourceName (int .of.gpu.count) -}}
{{- $_ := set $resources "limits" $limits -}}
{{- end -}}
{{- toYaml $resources -}}
{{- end -}}

{{/* (dict "root" $ "of" .Values.server): where pods run, and what every pod has. */}}
{{- define "sightline.podBasics" -}}
serviceAccountName: {{ include "sightline.serviceAccountName" .root }}
automountServiceAccountToken: false
enableServiceLinks: false
securityContext:
  {{- include "sightline.podSecurityContext" . | nindent 2 }}
{{- with .root.Values.image.pullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
{{- if .of.gpu.enabled }}
{{- with .of.gpu.runtimeClassName }}
runtimeClassName: {{ . }}
{{- end }}
{{- end }}
{{- with .of.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with .of.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .of.affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- $tolerations := .of.tolerations -}}
{{- if .of.gpu.enabled -}}
{{- $tolerations = append $tolerations (dict "key" .of.gpu.resourceName "operator" "Exists" "effect" "NoSchedule") -}}
{{- end }}
{{- with $tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{/* Volumes and mounts for the encoder: its claim, or room for what the hub gives, or nothing. */}}
{{- define "sightline.encoderVolume" -}}
{{- with .Values.encoder.existingClaim }}
- name: encoder
  persistentVolumeClaim: {claimName: {{ . }}, readOnly: true}
{{- end }}
{{- if .Values.encoder.hub }}
- name: models
  emptyDir: {sizeLimit: {{ .Values.encoder.hubSizeLimit }}}
{{- end }}
{{- end -}}

{{- define "sightline.encoderMount" -}}
{{- if .Values.encoder.existingClaim }}
- {name: encoder, mountPath: {{ .Values.encoder.mountPath }}, readOnly: true}
{{- end }}
{{- if .Values.encoder.hub }}
- {name: models, mountPath: /models}
{{- end }}
{{- end -}}

{{- define "sightline.collectionClaim" -}}
{{- default (printf "%s-collection" (include "sightline.fullname" .)) .Values.collection.pvc.existingClaim -}}
{{- end -}}
