{{/* Name of what belongs to the release. */}}
{{- define "pgpool-operator.fullname" -}}
{{- if contains .Chart.Name .Release.Name -}}
{{- .Release.Name | trunc 52 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name .Chart.Name | trunc 52 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{/* Labels that choose the controller's pods; they never change. */}}
{{- define "pgpool-operator.selector" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{/* Labels of everything in the release. */}}
{{- define "pgpool-operator.labels" -}}
{{ include "pgpool-operator.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end -}}

{{/* ServiceAccount of the controller. */}}
{{- define "pgpool-operator.account" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (include "pgpool-operator.fullname" .) .Values.serviceAccount.name -}}
{{- else -}}
{{- required "serviceAccount.name: name the account to use, since serviceAccount.create is false" .Values.serviceAccount.name -}}
{{- end -}}
{{- end -}}

{{/* The operator's image, which the pools run as well. */}}
{{- define "pgpool-operator.image" -}}
{{- printf "%s:%s" .Values.image.repository (default .Chart.AppVersion .Values.image.tag) -}}
{{- end -}}

{{/* What the controller may do where its pools are. */}}
{{- define "pgpool-operator.rules" -}}
{{- $all := list "get" "list" "watch" "create" "patch" "update" "delete" -}}
- apiGroups: [pgpool-operator.dev]
  resources: [pgpools]
  verbs: [get, list, watch, patch, update]
- apiGroups: [pgpool-operator.dev]
  resources: [pgpools/status]
  verbs: [get, patch, update]
- apiGroups: [pgpool-operator.dev]
  resources: [pgpools/finalizers]
  verbs: [update]
- apiGroups: [pgpool-operator.dev]
  resources: [pgpoolmemberships]
  verbs: [{{ join ", " $all }}]
# Never used by the controller: who makes a Role must hold its rights, and the agents' Role has these.
- apiGroups: [pgpool-operator.dev]
  resources: [pgpoolmemberships/status]
  verbs: [get, patch, update]
- apiGroups: [apps]
  resources: [deployments, statefulsets]
  verbs: [{{ join ", " $all }}]
- apiGroups: [batch]
  resources: [jobs]
  verbs: [{{ join ", " $all }}]
- apiGroups: [""]
  resources: [configmaps, persistentvolumeclaims, secrets, serviceaccounts, services]
  verbs: [{{ join ", " $all }}]
- apiGroups: [""]
  resources: [pods]
  verbs: [get, list, watch, patch, delete]
- apiGroups: [rbac.authorization.k8s.io]
  resources: [roles, rolebindings]
  verbs: [{{ join ", " $all }}]
- apiGroups: [policy]
  resources: [poddisruptionbudgets]
  verbs: [{{ join ", " $all }}]
- apiGroups: [networking.k8s.io]
  resources: [networkpolicies]
  verbs: [{{ join ", " $all }}]
- apiGroups: [events.k8s.io]
  resources: [events]
  verbs: [create, patch]
{{- end -}}
