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

{{/* Names of the Secrets for pulling that image, separated by commas. */}}
{{- define "pgpool-operator.pullSecrets" -}}
{{- $names := list -}}
{{- range .Values.imagePullSecrets -}}
{{- $names = append $names .name -}}
{{- end -}}
{{- join "," $names -}}
{{- end -}}

{{/* What the controller may do where its pools are. A test holds it against what it was seen to do. */}}
{{- define "pgpool-operator.rules" -}}
- apiGroups: [pgpool-operator.dev]
  resources: [pgpools]
  verbs: [get, list, watch, patch]
- apiGroups: [pgpool-operator.dev]
  resources: [pgpools/status]
  verbs: [update]
# Where the API server enforces it, who makes an object that holds up the end of its owner must have this.
- apiGroups: [pgpool-operator.dev]
  resources: [pgpools/finalizers]
  verbs: [update]
- apiGroups: [pgpool-operator.dev]
  resources: [pgpoolmemberships]
  verbs: [get, list, watch, create, update, delete]
# Never used by the controller: who makes a Role must hold its rights, and the agents' Role has this.
- apiGroups: [pgpool-operator.dev]
  resources: [pgpoolmemberships/status]
  verbs: [update]
- apiGroups: [apps]
  resources: [deployments, statefulsets]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [batch]
  resources: [jobs]
  verbs: [list, watch, create, delete]
- apiGroups: [""]
  resources: [configmaps, services]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [""]
  resources: [persistentvolumeclaims]
  verbs: [list, watch, create, patch, delete]
# Passwords and certificates are made, renewed and handed out.
- apiGroups: [""]
  resources: [secrets]
  verbs: [get, list, watch, create, patch, update, delete]
- apiGroups: [""]
  resources: [serviceaccounts]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [""]
  resources: [pods]
  verbs: [list, watch, patch, delete]
- apiGroups: [rbac.authorization.k8s.io]
  resources: [roles, rolebindings]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [policy]
  resources: [poddisruptionbudgets]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [networking.k8s.io]
  resources: [networkpolicies]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [events.k8s.io]
  resources: [events]
  verbs: [create]
{{- end -}}
