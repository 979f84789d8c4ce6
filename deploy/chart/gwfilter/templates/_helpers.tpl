{{- define "gwfilter.labels" -}}
app.kubernetes.io/name: gwfilter
{{- end }}

{{- define "gwfilter.image" -}}
{{- if .Values.image.digest -}}
{{ .Values.image.repository }}@{{ .Values.image.digest }}
{{- else -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end -}}
{{- end }}

{{- define "gwfilter.subjects" -}}
subjects:
  - kind: ServiceAccount
    name: gwfilter
    namespace: {{ .Values.namespace.name }}
{{- end }}
