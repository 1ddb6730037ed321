{{- define "ha.name" -}}{{ .Release.Name }}-peer{{- end -}}
{{- define "ha.tls" -}}{{ .Values.certificates.secret | default (printf "%s-tls" .Release.Name) }}{{- end -}}
{{- define "ha.tokens" -}}{{ .Values.tokens.secret | default (printf "%s-tokens" .Release.Name) }}{{- end -}}
{{- define "ha.host" -}}
{{ include "ha.name" .root }}-{{ .i }}.{{ include "ha.name" .root }}.{{ .root.Release.Namespace }}.svc.{{ .root.Values.clusterDomain }}
{{- end -}}
{{- define "ha.peers" -}}
{{- $l := list -}}
{{- range $i := until (int .Values.peers.replicas) -}}
{{- $l = append $l (printf "%s-%d=%s" (include "ha.name" $) $i (include "ha.host" (dict "root" $ "i" $i))) -}}
{{- end -}}
{{ join "," $l }}
{{- end -}}
{{- define "ha.address" -}}
{{- $l := list -}}
{{- range $i := until (int .Values.peers.replicas) -}}
{{- $l = append $l (printf "%s:8786" (include "ha.host" (dict "root" $ "i" $i))) -}}
{{- end -}}
ha://{{ join "," $l }}
{{- end -}}
{{- define "ha.labels" -}}
app.kubernetes.io/name: dask-ha
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}
{{- define "ha.image" -}}
image: "{{ .Values.image.repository }}:{{ .Values.image.tag }}"
imagePullPolicy: {{ .Values.image.pullPolicy }}
{{- end -}}
{{- define "ha.confined" -}}
allowPrivilegeEscalation: false
capabilities: {drop: [ALL]}
{{- end -}}
{{- define "ha.copy" -}}
- name: files  # a volume of a secret lets others read, which no key may be
  {{- include "ha.image" .root | nindent 2 }}
  command: [python, -m, ha_scheduler.deploy.kubernetes, copy]
  args: [--source=/secret, --target=/etc/dask-ha/tls{{ if .peer }}, --peer=$(POD_NAME){{ end }}]
  env:
    - {name: POD_NAME, valueFrom: {fieldRef: {fieldPath: metadata.name}}}
  securityContext: {{- include "ha.confined" .root | nindent 4 }}
  volumeMounts:
    - {name: secret, mountPath: /secret, readOnly: true}
    - {name: tls, mountPath: /etc/dask-ha/tls}
{{- end -}}
