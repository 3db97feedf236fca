//! The default roles and bindings as a table (`Spec:` Kubernetes "Using RBAC Authorization", "Default roles and role bindings").
//! Lists are written with commas; an empty element is the core group.

use crate::request::RequestInfo;

/// A role; in no namespace it is a ClusterRole.
pub(crate) struct Role {
    pub(crate) namespace: &'static str,
    pub(crate) name: &'static str,
    /// Label keys (with value `true`) beside `kubernetes.io/bootstrapping`.
    pub(crate) labels: &'static str,
    /// The label key whose roles it aggregates.
    pub(crate) aggregates: &'static str,
    pub(crate) rules: &'static [Rule],
}

/// One rule.
pub(crate) struct Rule {
    pub(crate) verbs: &'static str,
    pub(crate) groups: &'static str,
    pub(crate) resources: &'static str,
    pub(crate) names: &'static str,
    pub(crate) urls: &'static str,
}

/// A binding; in no namespace it is a ClusterRoleBinding.
pub(crate) struct Binding {
    pub(crate) namespace: &'static str,
    pub(crate) name: &'static str,
    pub(crate) role_kind: &'static str,
    pub(crate) role: &'static str,
    /// `user:NAME`, `group:NAME` or `sa:NAMESPACE/NAME`.
    pub(crate) subjects: &'static [&'static str],
}

const fn on(verbs: &'static str, groups: &'static str, resources: &'static str) -> Rule {
    Rule { verbs, groups, resources, names: "", urls: "" }
}

const fn named(verbs: &'static str, groups: &'static str, resources: &'static str, names: &'static str) -> Rule {
    Rule { verbs, groups, resources, names, urls: "" }
}

const fn urls(verbs: &'static str, urls: &'static str) -> Rule {
    Rule { verbs, groups: "", resources: "", names: "", urls }
}

fn lists(list: &str, item: &str) -> bool {
    list.split(',').any(|each| each == item || each == "*")
}

/// Whether a rule covers a request for a resource.
pub(crate) fn covers(rule: &Rule, info: &RequestInfo) -> bool {
    rule.urls.is_empty()
        && lists(rule.verbs, &info.verb)
        && lists(rule.groups, &info.group)
        && lists(rule.resources, &info.resource_path())
        && (rule.names.is_empty() || lists(rule.names, &info.name))
}

/// What every node may do, as the node authorizer grants it; what it reads only through its pods is decided there.
pub(crate) fn node_rules() -> &'static [Rule] {
    CLUSTER_ROLES.iter().find(|role| role.name == "system:node").map_or(&[], |role| role.rules)
}

/// Bindings of this project: agents join with a bootstrap token, renew their certificates, and run service rules and DNS themselves.
pub(crate) const OWN_BINDINGS: &[Binding] = &[
    Binding {
        namespace: "",
        name: "trierarch:node-bootstrapper",
        role_kind: "ClusterRole",
        role: "system:node-bootstrapper",
        subjects: &["group:system:bootstrappers"],
    },
    Binding {
        namespace: "",
        name: "trierarch:node-autoapprove-bootstrap",
        role_kind: "ClusterRole",
        role: "system:certificates.k8s.io:certificatesigningrequests:nodeclient",
        subjects: &["group:system:bootstrappers"],
    },
    Binding {
        namespace: "",
        name: "trierarch:node-autoapprove-renewal",
        role_kind: "ClusterRole",
        role: "system:certificates.k8s.io:certificatesigningrequests:selfnodeclient",
        subjects: &["group:system:nodes"],
    },
    Binding {
        namespace: "",
        name: "trierarch:node-proxier",
        role_kind: "ClusterRole",
        role: "system:node-proxier",
        subjects: &["group:system:nodes"],
    },
    Binding {
        namespace: "",
        name: "trierarch:node-dns",
        role_kind: "ClusterRole",
        role: "system:kube-dns",
        subjects: &["group:system:nodes"],
    },
];

/// What people and components may do.
pub(crate) const CLUSTER_ROLES: &[Role] = &[
    Role { namespace: "", name: "admin", labels: "", aggregates: "rbac.authorization.k8s.io/aggregate-to-admin", rules: &[] },
    Role { namespace: "", name: "cluster-admin", labels: "", aggregates: "", rules: &[
            on("*", "*", "*"),
            urls("*", "*"),
        ] },
    Role { namespace: "", name: "edit", labels: "rbac.authorization.k8s.io/aggregate-to-admin", aggregates: "rbac.authorization.k8s.io/aggregate-to-edit", rules: &[] },
    Role { namespace: "", name: "system:aggregate-to-admin", labels: "rbac.authorization.k8s.io/aggregate-to-admin", aggregates: "", rules: &[
            on("create", "authorization.k8s.io", "localsubjectaccessreviews"),
            on("create,delete,deletecollection,get,list,patch,update,watch", "rbac.authorization.k8s.io", "rolebindings,roles"),
        ] },
    Role { namespace: "", name: "system:aggregate-to-edit", labels: "rbac.authorization.k8s.io/aggregate-to-edit", aggregates: "", rules: &[
            on("get,list,watch", "", "pods/attach,pods/exec,pods/portforward,pods/proxy,secrets,services/proxy"),
            on("impersonate", "", "serviceaccounts"),
            on("create,delete,deletecollection,patch,update", "", "pods,pods/attach,pods/exec,pods/portforward,pods/proxy"),
            on("create", "", "pods/eviction"),
            on("create,delete,deletecollection,patch,update", "", "configmaps,persistentvolumeclaims,replicationcontrollers,replicationcontrollers/scale,secrets,serviceaccounts,services,services/proxy"),
            on("create", "", "serviceaccounts/token"),
            on("create,delete,deletecollection,patch,update", ",events.k8s.io", "events"),
            on("create,delete,deletecollection,patch,update", "apps", "daemonsets,deployments,deployments/rollback,deployments/scale,replicasets,replicasets/scale,statefulsets,statefulsets/scale"),
            on("create,delete,deletecollection,patch,update", "autoscaling", "horizontalpodautoscalers"),
            on("create,delete,deletecollection,patch,update", "batch", "cronjobs,jobs"),
            on("create,delete,deletecollection,patch,update", "extensions", "daemonsets,deployments,deployments/rollback,deployments/scale,ingresses,networkpolicies,replicasets,replicasets/scale,replicationcontrollers/scale"),
            on("create,delete,deletecollection,patch,update", "policy", "poddisruptionbudgets"),
            on("create,delete,deletecollection,patch,update", "networking.k8s.io", "ingresses,networkpolicies"),
            on("create,delete,deletecollection,get,list,patch,update,watch", "coordination.k8s.io", "leases"),
            on("create,delete,deletecollection,patch,update", "resource.k8s.io", "resourceclaims,resourceclaimtemplates"),
        ] },
    Role { namespace: "", name: "system:aggregate-to-view", labels: "rbac.authorization.k8s.io/aggregate-to-view", aggregates: "", rules: &[
            on("get,list,watch", "", "configmaps,endpoints,persistentvolumeclaims,persistentvolumeclaims/status,pods,replicationcontrollers,replicationcontrollers/scale,serviceaccounts,services,services/status"),
            on("get,list,watch", "", "bindings,limitranges,namespaces/status,pods/log,pods/status,replicationcontrollers/status,resourcequotas,resourcequotas/status"),
            on("get,list,watch", "", "namespaces"),
            on("get,list,watch", ",events.k8s.io", "events"),
            on("get,list,watch", "discovery.k8s.io", "endpointslices"),
            on("get,list,watch", "apps", "controllerrevisions,daemonsets,daemonsets/status,deployments,deployments/scale,deployments/status,replicasets,replicasets/scale,replicasets/status,statefulsets,statefulsets/scale,statefulsets/status"),
            on("get,list,watch", "autoscaling", "horizontalpodautoscalers,horizontalpodautoscalers/status"),
            on("get,list,watch", "batch", "cronjobs,cronjobs/status,jobs,jobs/status"),
            on("get,list,watch", "extensions", "daemonsets,daemonsets/status,deployments,deployments/scale,deployments/status,ingresses,ingresses/status,networkpolicies,replicasets,replicasets/scale,replicasets/status,replicationcontrollers/scale"),
            on("get,list,watch", "policy", "poddisruptionbudgets,poddisruptionbudgets/status"),
            on("get,list,watch", "networking.k8s.io", "ingresses,ingresses/status,networkpolicies"),
            on("get,list,watch", "resource.k8s.io", "resourceclaims,resourceclaims/status,resourceclaimtemplates"),
        ] },
    Role { namespace: "", name: "system:auth-delegator", labels: "", aggregates: "", rules: &[
            on("create", "authentication.k8s.io", "tokenreviews"),
            on("create", "authorization.k8s.io", "subjectaccessreviews"),
        ] },
    Role { namespace: "", name: "system:basic-user", labels: "", aggregates: "", rules: &[
            on("create", "authorization.k8s.io", "selfsubjectaccessreviews,selfsubjectrulesreviews"),
            on("create", "authentication.k8s.io", "selfsubjectreviews"),
        ] },
    Role { namespace: "", name: "system:certificates.k8s.io:certificatesigningrequests:nodeclient", labels: "", aggregates: "", rules: &[
            on("create", "certificates.k8s.io", "certificatesigningrequests/nodeclient"),
        ] },
    Role { namespace: "", name: "system:certificates.k8s.io:certificatesigningrequests:selfnodeclient", labels: "", aggregates: "", rules: &[
            on("create", "certificates.k8s.io", "certificatesigningrequests/selfnodeclient"),
        ] },
    Role { namespace: "", name: "system:certificates.k8s.io:kube-apiserver-client-approver", labels: "", aggregates: "", rules: &[
            named("approve", "certificates.k8s.io", "signers", "kubernetes.io/kube-apiserver-client"),
        ] },
    Role { namespace: "", name: "system:certificates.k8s.io:kube-apiserver-client-kubelet-approver", labels: "", aggregates: "", rules: &[
            named("approve", "certificates.k8s.io", "signers", "kubernetes.io/kube-apiserver-client-kubelet"),
        ] },
    Role { namespace: "", name: "system:certificates.k8s.io:kubelet-serving-approver", labels: "", aggregates: "", rules: &[
            named("approve", "certificates.k8s.io", "signers", "kubernetes.io/kubelet-serving"),
        ] },
    Role { namespace: "", name: "system:certificates.k8s.io:legacy-unknown-approver", labels: "", aggregates: "", rules: &[
            named("approve", "certificates.k8s.io", "signers", "kubernetes.io/legacy-unknown"),
        ] },
    Role { namespace: "", name: "system:cluster-trust-bundle-discovery", labels: "", aggregates: "", rules: &[
            on("get,list,watch", "certificates.k8s.io", "clustertrustbundles"),
        ] },
    Role { namespace: "", name: "system:discovery", labels: "", aggregates: "", rules: &[
            urls("get", "/api,/api/*,/apis,/apis/*,/healthz,/livez,/openapi,/openapi/*,/readyz,/version,/version/"),
        ] },
    Role { namespace: "", name: "system:heapster", labels: "", aggregates: "", rules: &[
            on("get,list,watch", "", "events,namespaces,nodes,pods"),
            on("get,list,watch", "extensions", "deployments"),
        ] },
    Role { namespace: "", name: "system:kube-aggregator", labels: "", aggregates: "", rules: &[
            on("get,list,watch", "", "endpoints,services"),
        ] },
    Role { namespace: "", name: "system:kube-controller-manager", labels: "", aggregates: "", rules: &[
            on("create,patch,update", ",events.k8s.io", "events"),
            on("create", "coordination.k8s.io", "leases"),
            named("get,update", "coordination.k8s.io", "leases", "kube-controller-manager"),
            on("create", "", "secrets,serviceaccounts"),
            on("delete", "", "secrets"),
            on("get", "", "configmaps,namespaces,secrets,serviceaccounts"),
            on("update", "", "secrets,serviceaccounts"),
            on("create", "authentication.k8s.io", "tokenreviews"),
            on("create", "authorization.k8s.io", "subjectaccessreviews"),
            on("list,watch", "*", "*"),
            on("create", "", "serviceaccounts/token"),
        ] },
    Role { namespace: "", name: "system:kube-dns", labels: "", aggregates: "", rules: &[
            on("list,watch", "", "endpoints,services"),
        ] },
    Role { namespace: "", name: "system:kube-scheduler", labels: "", aggregates: "", rules: &[
            on("create,patch,update", ",events.k8s.io", "events"),
            on("create", "coordination.k8s.io", "leases"),
            named("get,list,update,watch", "coordination.k8s.io", "leases", "kube-scheduler"),
            on("create,delete,deletecollection,get,list,patch,update,watch", "coordination.k8s.io", "leasecandidates"),
            on("get,list,watch", "", "nodes"),
            on("delete,get,list,watch", "", "pods"),
            on("create", "", "bindings,pods/binding"),
            on("patch,update", "", "pods/status"),
            on("get,list,watch", "", "replicationcontrollers,services"),
            on("get,list,watch", "apps,extensions", "replicasets"),
            on("get,list,watch", "apps", "statefulsets"),
            on("get,list,watch", "policy", "poddisruptionbudgets"),
            on("get,list,watch", "", "persistentvolumeclaims,persistentvolumes"),
            on("create", "authentication.k8s.io", "tokenreviews"),
            on("create", "authorization.k8s.io", "subjectaccessreviews"),
            on("get,list,watch", "storage.k8s.io", "csinodes"),
            on("get,list,watch", "storage.k8s.io", "volumeattachments"),
            on("get,list,watch", "", "namespaces"),
            on("get,list,watch", "storage.k8s.io", "csidrivers"),
            on("get,list,watch", "storage.k8s.io", "csistoragecapacities"),
            on("get,list,watch", "resource.k8s.io", "deviceclasses"),
            on("get,list,patch,update,watch", "resource.k8s.io", "resourceclaims"),
            on("get,list,patch,update,watch", "resource.k8s.io", "resourceclaims/status"),
            on("update", "", "pods/finalizers"),
            on("get,list,watch", "resource.k8s.io", "resourceslices"),
            on("create,delete", "resource.k8s.io", "resourceclaims"),
            on("get,list,watch", "resource.k8s.io", "devicetaintrules"),
            on("patch,update", "resource.k8s.io", "resourceclaims/binding"),
        ] },
    Role { namespace: "", name: "system:kubelet-api-admin", labels: "", aggregates: "", rules: &[
            on("get,list,watch", "", "nodes"),
            on("proxy", "", "nodes"),
            on("*", "", "nodes/log,nodes/metrics,nodes/proxy,nodes/stats"),
            on("*", "", "nodes/configz,nodes/healthz,nodes/pods"),
        ] },
    Role { namespace: "", name: "system:monitoring", labels: "", aggregates: "", rules: &[
            urls("get", "/flagz,/healthz,/healthz/*,/livez,/livez/*,/metrics,/metrics/slis,/readyz,/readyz/*,/statusz"),
            on("get", "", "nodes/metrics"),
        ] },
    Role { namespace: "", name: "system:node", labels: "", aggregates: "", rules: &[
            on("create", "authentication.k8s.io", "tokenreviews"),
            on("create", "authorization.k8s.io", "localsubjectaccessreviews,subjectaccessreviews"),
            on("get,list,watch", "", "services"),
            on("create,get,list,watch", "", "nodes"),
            on("patch,update", "", "nodes/status"),
            on("patch,update", "", "nodes"),
            on("create,patch,update", ",events.k8s.io", "events"),
            on("get,list,watch", "", "pods"),
            on("create,delete", "", "pods"),
            on("patch,update", "", "pods/status"),
            on("create", "", "pods/eviction"),
            on("get,list,watch", "", "configmaps,secrets"),
            on("get", "", "persistentvolumeclaims,persistentvolumes"),
            on("get", "", "endpoints"),
            on("create,get,list,watch", "certificates.k8s.io", "certificatesigningrequests"),
            on("create,delete,get,patch,update", "coordination.k8s.io", "leases"),
            on("get", "storage.k8s.io", "volumeattachments"),
            on("create", "", "serviceaccounts/token"),
            on("get,patch,update", "", "persistentvolumeclaims/status"),
            on("get,list,watch", "storage.k8s.io", "csidrivers"),
            on("create,delete,get,patch,update", "storage.k8s.io", "csinodes"),
            on("get,list,watch", "node.k8s.io", "runtimeclasses"),
            on("get", "resource.k8s.io", "resourceclaims"),
            on("deletecollection", "resource.k8s.io", "resourceslices"),
            on("get,list,watch", "certificates.k8s.io", "clustertrustbundles"),
            on("get", "", "serviceaccounts"),
            on("create,get,list,watch", "certificates.k8s.io", "podcertificaterequests"),
        ] },
    Role { namespace: "", name: "system:node-bootstrapper", labels: "", aggregates: "", rules: &[
            on("create,get,list,watch", "certificates.k8s.io", "certificatesigningrequests"),
        ] },
    Role { namespace: "", name: "system:node-problem-detector", labels: "", aggregates: "", rules: &[
            on("get", "", "nodes"),
            on("patch", "", "nodes/status"),
            on("create,patch,update", ",events.k8s.io", "events"),
        ] },
    Role { namespace: "", name: "system:node-proxier", labels: "", aggregates: "", rules: &[
            on("list,watch", "", "endpoints,services"),
            on("get,list,watch", "", "nodes"),
            on("create,patch,update", ",events.k8s.io", "events"),
            on("list,watch", "networking.k8s.io", "servicecidrs"),
            on("list,watch", "discovery.k8s.io", "endpointslices"),
        ] },
    Role { namespace: "", name: "system:persistent-volume-provisioner", labels: "", aggregates: "", rules: &[
            on("create,delete,get,list,watch", "", "persistentvolumes"),
            on("get,list,update,watch", "", "persistentvolumeclaims"),
            on("get,list,watch", "storage.k8s.io", "storageclasses"),
            on("watch", "", "events"),
            on("create,patch,update", ",events.k8s.io", "events"),
        ] },
    Role { namespace: "", name: "system:public-info-viewer", labels: "", aggregates: "", rules: &[
            urls("get", "/healthz,/livez,/readyz,/version,/version/"),
        ] },
    Role { namespace: "", name: "system:service-account-issuer-discovery", labels: "", aggregates: "", rules: &[
            urls("get", "/.well-known/openid-configuration,/.well-known/openid-configuration/,/openid/v1/jwks,/openid/v1/jwks/"),
        ] },
    Role { namespace: "", name: "system:volume-scheduler", labels: "", aggregates: "", rules: &[
            on("get,list,patch,update,watch", "", "persistentvolumes"),
            on("get,list,watch", "storage.k8s.io", "storageclasses"),
            on("get,list,patch,update,watch", "", "persistentvolumeclaims"),
        ] },
    Role { namespace: "", name: "view", labels: "rbac.authorization.k8s.io/aggregate-to-edit", aggregates: "rbac.authorization.k8s.io/aggregate-to-view", rules: &[] },
];

/// What each controller may do.
pub(crate) const CONTROLLER_ROLES: &[Role] = &[
    Role { namespace: "", name: "system:controller:attachdetach-controller", labels: "", aggregates: "", rules: &[
            on("list,watch", "", "persistentvolumeclaims,persistentvolumes"),
            on("get,list,watch", "", "nodes"),
            on("patch,update", "", "nodes/status"),
            on("list,watch", "", "pods"),
            on("create,patch,update", ",events.k8s.io", "events"),
            on("create,delete,get,list,watch", "storage.k8s.io", "volumeattachments"),
            on("get,list,watch", "storage.k8s.io", "csidrivers"),
            on("get,list,watch", "storage.k8s.io", "csinodes"),
        ] },
    Role { namespace: "", name: "system:controller:certificate-controller", labels: "", aggregates: "", rules: &[
            on("delete,get,list,watch", "certificates.k8s.io", "certificatesigningrequests"),
            on("update", "certificates.k8s.io", "certificatesigningrequests/approval,certificatesigningrequests/status"),
            named("approve", "certificates.k8s.io", "signers", "kubernetes.io/kube-apiserver-client-kubelet"),
            named("sign", "certificates.k8s.io", "signers", "kubernetes.io/kube-apiserver-client,kubernetes.io/kube-apiserver-client-kubelet,kubernetes.io/kubelet-serving,kubernetes.io/legacy-unknown"),
            on("create", "authorization.k8s.io", "subjectaccessreviews"),
            on("create,patch,update", ",events.k8s.io", "events"),
        ] },
    Role { namespace: "", name: "system:controller:clusterrole-aggregation-controller", labels: "", aggregates: "", rules: &[
            on("escalate,get,list,patch,update,watch", "rbac.authorization.k8s.io", "clusterroles"),
        ] },
    Role { namespace: "", name: "system:controller:cronjob-controller", labels: "", aggregates: "", rules: &[
            on("get,list,update,watch", "batch", "cronjobs"),
            on("create,delete,get,list,patch,update,watch", "batch", "jobs"),
            on("update", "batch", "cronjobs/status"),
            on("update", "batch", "cronjobs/finalizers"),
            on("delete,list,watch", "", "pods"),
            on("create,patch,update", ",events.k8s.io", "events"),
        ] },
    Role { namespace: "", name: "system:controller:daemon-set-controller", labels: "", aggregates: "", rules: &[
            on("get,list,watch", "apps,extensions", "daemonsets"),
            on("update", "apps,extensions", "daemonsets/status"),
            on("update", "apps,extensions", "daemonsets/finalizers"),
            on("list,watch", "", "nodes"),
            on("create,delete,list,patch,watch", "", "pods"),
            on("create", "", "pods/binding"),
            on("create,delete,get,list,patch,update,watch", "apps", "controllerrevisions"),
            on("create,patch,update", ",events.k8s.io", "events"),
        ] },
    Role { namespace: "", name: "system:controller:deployment-controller", labels: "", aggregates: "", rules: &[
            on("get,list,update,watch", "apps,extensions", "deployments"),
            on("update", "apps,extensions", "deployments/status"),
            on("update", "apps,extensions", "deployments/finalizers"),
            on("create,delete,get,list,patch,update,watch", "apps,extensions", "replicasets"),
            on("get,list,update,watch", "", "pods"),
            on("create,patch,update", ",events.k8s.io", "events"),
        ] },
    Role { namespace: "", name: "system:controller:device-taint-eviction-controller", labels: "", aggregates: "", rules: &[
            on("delete,get,list,watch", "", "pods"),
            on("patch,update", "", "pods/status"),
            on("get,list,watch", "resource.k8s.io", "resourceclaims"),
            on("get,list,watch", "resource.k8s.io", "resourceslices"),
            on("get,list,watch", "resource.k8s.io", "deviceclasses"),
            on("create,patch,update", ",events.k8s.io", "events"),
            on("patch,update", "resource.k8s.io", "devicetaintrules/status"),
            on("get,list,watch", "resource.k8s.io", "devicetaintrules"),
        ] },
    Role { namespace: "", name: "system:controller:disruption-controller", labels: "", aggregates: "", rules: &[
            on("get,list,watch", "apps,extensions", "deployments"),
            on("get,list,watch", "apps,extensions", "replicasets"),
            on("get,list,watch", "", "replicationcontrollers"),
            on("get,list,watch", "policy", "poddisruptionbudgets"),
            on("get,list,watch", "apps", "statefulsets"),
            on("update", "policy", "poddisruptionbudgets/status"),
            on("patch,update", "", "pods/status"),
            on("get", "*", "*/scale"),
            on("create,patch,update", ",events.k8s.io", "events"),
        ] },
    Role { namespace: "", name: "system:controller:endpoint-controller", labels: "", aggregates: "", rules: &[
            on("get,list,watch", "", "pods,services"),
            on("create,delete,get,list,update,watch", "", "endpoints"),
            on("create", "", "endpoints/restricted"),
            on("create,patch,update", ",events.k8s.io", "events"),
        ] },
    Role { namespace: "", name: "system:controller:endpointslice-controller", labels: "", aggregates: "", rules: &[
            on("get,list,watch", "", "nodes,pods,services"),
            on("update", "", "services/finalizers"),
            on("create,delete,get,list,update,watch", "discovery.k8s.io", "endpointslices"),
            on("create,patch,update", ",events.k8s.io", "events"),
        ] },
    Role { namespace: "", name: "system:controller:endpointslicemirroring-controller", labels: "", aggregates: "", rules: &[
            on("get,list,watch", "", "endpoints,services"),
            on("update", "", "services/finalizers"),
            on("update", "", "endpoints/finalizers"),
            on("create,delete,get,list,update,watch", "discovery.k8s.io", "endpointslices"),
            on("create,patch,update", ",events.k8s.io", "events"),
        ] },
    Role { namespace: "", name: "system:controller:ephemeral-volume-controller", labels: "", aggregates: "", rules: &[
            on("get,list,watch", "", "pods"),
            on("update", "", "pods/finalizers"),
            on("create,get,list,watch", "", "persistentvolumeclaims"),
            on("create,patch,update", ",events.k8s.io", "events"),
        ] },
    Role { namespace: "", name: "system:controller:expand-controller", labels: "", aggregates: "", rules: &[
            on("get,list,patch,update,watch", "", "persistentvolumes"),
            on("patch,update", "", "persistentvolumeclaims/status"),
            on("get,list,watch", "", "persistentvolumeclaims"),
            on("create,patch,update", ",events.k8s.io", "events"),
        ] },
    Role { namespace: "", name: "system:controller:generic-garbage-collector", labels: "", aggregates: "", rules: &[
            on("delete,get,list,patch,update,watch", "*", "*"),
            on("create,patch,update", ",events.k8s.io", "events"),
        ] },
    Role { namespace: "", name: "system:controller:horizontal-pod-autoscaler", labels: "", aggregates: "", rules: &[
            on("get,list,watch", "autoscaling", "horizontalpodautoscalers"),
            on("update", "autoscaling", "horizontalpodautoscalers/status"),
            on("get,update", "*", "*/scale"),
            on("list,watch", "", "pods"),
            on("list,watch", "metrics.k8s.io", "pods"),
            on("get,list,watch", "custom.metrics.k8s.io", "*"),
            on("get,list,watch", "external.metrics.k8s.io", "*"),
            on("create,patch,update", ",events.k8s.io", "events"),
        ] },
    Role { namespace: "", name: "system:controller:job-controller", labels: "", aggregates: "", rules: &[
            on("get,list,patch,update,watch", "batch", "jobs"),
            on("update", "batch", "jobs/status"),
            on("update", "batch", "jobs/finalizers"),
            on("create,delete,list,patch,watch", "", "pods"),
            on("create,patch,update", ",events.k8s.io", "events"),
        ] },
    Role { namespace: "", name: "system:controller:kube-apiserver-serving-clustertrustbundle-publisher", labels: "", aggregates: "", rules: &[
            named("attest", "certificates.k8s.io", "signers", "kubernetes.io/kube-apiserver-serving"),
            on("create,delete,list,update,watch", "certificates.k8s.io", "clustertrustbundles"),
            on("create,patch,update", ",events.k8s.io", "events"),
        ] },
    Role { namespace: "", name: "system:controller:legacy-service-account-token-cleaner", labels: "", aggregates: "", rules: &[
            named("get", "", "configmaps", "kube-apiserver-legacy-service-account-token-tracking"),
            on("delete,patch", "", "secrets"),
        ] },
    Role { namespace: "", name: "system:controller:namespace-controller", labels: "", aggregates: "", rules: &[
            on("delete,get,list,watch", "", "namespaces"),
            on("update", "", "namespaces/finalize,namespaces/status"),
            on("delete,deletecollection,get,list,watch", "*", "*"),
        ] },
    Role { namespace: "", name: "system:controller:node-controller", labels: "", aggregates: "", rules: &[
            on("delete,get,list,patch,update,watch", "", "nodes"),
            on("patch,update", "", "nodes/status"),
            on("patch,update", "", "pods/status"),
            on("delete,get,list,watch", "", "pods"),
            on("get,list,watch", "coordination.k8s.io", "leases"),
            on("create,patch,update", ",events.k8s.io", "events"),
        ] },
    Role { namespace: "", name: "system:controller:persistent-volume-binder", labels: "", aggregates: "", rules: &[
            on("create,delete,get,list,update,watch", "", "persistentvolumes"),
            on("update", "", "persistentvolumes/status"),
            on("get,list,update,watch", "", "persistentvolumeclaims"),
            on("update", "", "persistentvolumeclaims/status"),
            on("create,delete,get,list,watch", "", "pods"),
            on("get,list,watch", "storage.k8s.io", "storageclasses"),
            on("list,watch", "", "nodes"),
            on("create,patch,update", ",events.k8s.io", "events"),
            on("watch", "", "events"),
        ] },
    Role { namespace: "", name: "system:controller:pod-garbage-collector", labels: "", aggregates: "", rules: &[
            on("delete,list,watch", "", "pods"),
            on("get,list,watch", "", "nodes"),
            on("patch", "", "pods/status"),
        ] },
    Role { namespace: "", name: "system:controller:podcertificaterequestcleaner", labels: "", aggregates: "", rules: &[
            on("delete,get,list,watch", "certificates.k8s.io", "podcertificaterequests"),
        ] },
    Role { namespace: "", name: "system:controller:pv-protection-controller", labels: "", aggregates: "", rules: &[
            on("get,list,update,watch", "", "persistentvolumes"),
            on("create,patch,update", ",events.k8s.io", "events"),
        ] },
    Role { namespace: "", name: "system:controller:pvc-protection-controller", labels: "", aggregates: "", rules: &[
            on("get,list,update,watch", "", "persistentvolumeclaims"),
            on("update", "", "persistentvolumeclaims/status"),
            on("get,list,watch", "", "pods"),
            on("create,patch,update", ",events.k8s.io", "events"),
        ] },
    Role { namespace: "", name: "system:controller:replicaset-controller", labels: "", aggregates: "", rules: &[
            on("get,list,update,watch", "apps,extensions", "replicasets"),
            on("update", "apps,extensions", "replicasets/status"),
            on("update", "apps,extensions", "replicasets/finalizers"),
            on("create,delete,list,patch,watch", "", "pods"),
            on("create,patch,update", ",events.k8s.io", "events"),
        ] },
    Role { namespace: "", name: "system:controller:replication-controller", labels: "", aggregates: "", rules: &[
            on("get,list,update,watch", "", "replicationcontrollers"),
            on("update", "", "replicationcontrollers/status"),
            on("update", "", "replicationcontrollers/finalizers"),
            on("create,delete,list,patch,watch", "", "pods"),
            on("create,patch,update", ",events.k8s.io", "events"),
        ] },
    Role { namespace: "", name: "system:controller:resource-claim-controller", labels: "", aggregates: "", rules: &[
            on("get,list,watch", "", "pods"),
            on("update", "", "pods/finalizers"),
            on("create,delete,get,list,watch", "resource.k8s.io", "resourceclaims"),
            on("patch,update", "resource.k8s.io", "resourceclaims,resourceclaims/status"),
            on("patch,update", "", "pods/status"),
            on("create,patch,update", ",events.k8s.io", "events"),
            on("patch,update", "resource.k8s.io", "resourceclaims/binding"),
        ] },
    Role { namespace: "", name: "system:controller:resourcequota-controller", labels: "", aggregates: "", rules: &[
            on("list,watch", "*", "*"),
            on("update", "", "resourcequotas/status"),
            on("create,patch,update", ",events.k8s.io", "events"),
        ] },
    Role { namespace: "", name: "system:controller:root-ca-cert-publisher", labels: "", aggregates: "", rules: &[
            on("create,update", "", "configmaps"),
            on("create,patch,update", ",events.k8s.io", "events"),
        ] },
    Role { namespace: "", name: "system:controller:route-controller", labels: "", aggregates: "", rules: &[
            on("list,watch", "", "nodes"),
            on("patch", "", "nodes/status"),
            on("create,patch,update", ",events.k8s.io", "events"),
        ] },
    Role { namespace: "", name: "system:controller:selinux-warning-controller", labels: "", aggregates: "", rules: &[
            on("create,patch,update", ",events.k8s.io", "events"),
            on("get,list,watch", "", "persistentvolumes"),
            on("get,list,watch", "", "persistentvolumeclaims"),
            on("get,list,watch", "", "pods"),
            on("get,list,watch", "storage.k8s.io", "csidrivers"),
        ] },
    Role { namespace: "", name: "system:controller:service-account-controller", labels: "", aggregates: "", rules: &[
            on("create", "", "serviceaccounts"),
            on("create,patch,update", ",events.k8s.io", "events"),
        ] },
    Role { namespace: "", name: "system:controller:service-cidrs-controller", labels: "", aggregates: "", rules: &[
            on("get,list,patch,update,watch", "networking.k8s.io", "servicecidrs"),
            on("patch,update", "networking.k8s.io", "servicecidrs/finalizers"),
            on("patch,update", "networking.k8s.io", "servicecidrs/status"),
            on("get,list,watch", "networking.k8s.io", "ipaddresses"),
            on("create,patch,update", ",events.k8s.io", "events"),
        ] },
    Role { namespace: "", name: "system:controller:service-controller", labels: "", aggregates: "", rules: &[
            on("get,list,watch", "", "services"),
            on("patch,update", "", "services/status"),
            on("list,watch", "", "nodes"),
            on("create,patch,update", ",events.k8s.io", "events"),
        ] },
    Role { namespace: "", name: "system:controller:statefulset-controller", labels: "", aggregates: "", rules: &[
            on("list,watch", "", "pods"),
            on("get,list,watch", "apps", "statefulsets"),
            on("update", "apps", "statefulsets/status"),
            on("update", "apps", "statefulsets/finalizers"),
            on("create,delete,get,patch,update", "", "pods"),
            on("create,delete,get,list,patch,update,watch", "apps", "controllerrevisions"),
            on("create,get,list,watch", "", "persistentvolumeclaims"),
            on("delete,update", "", "persistentvolumeclaims"),
            on("update", "", "pods/finalizers"),
            on("create,patch,update", ",events.k8s.io", "events"),
        ] },
    Role { namespace: "", name: "system:controller:storage-version-migrator-controller", labels: "", aggregates: "", rules: &[
            on("list,patch", "*", "*"),
            on("get", "apiextensions.k8s.io", "customresourcedefinitions"),
            on("patch", "apiextensions.k8s.io", "customresourcedefinitions/status"),
            on("update", "storagemigration.k8s.io", "storageversionmigrations/status"),
        ] },
    Role { namespace: "", name: "system:controller:ttl-after-finished-controller", labels: "", aggregates: "", rules: &[
            on("delete,get,list,watch", "batch", "jobs"),
            on("create,patch,update", ",events.k8s.io", "events"),
        ] },
    Role { namespace: "", name: "system:controller:ttl-controller", labels: "", aggregates: "", rules: &[
            on("list,patch,update,watch", "", "nodes"),
            on("create,patch,update", ",events.k8s.io", "events"),
        ] },
    Role { namespace: "", name: "system:controller:validatingadmissionpolicy-status-controller", labels: "", aggregates: "", rules: &[
            on("get,list,watch", "admissionregistration.k8s.io", "validatingadmissionpolicies"),
            on("get,patch,update", "admissionregistration.k8s.io", "validatingadmissionpolicies/status"),
            on("create,patch,update", ",events.k8s.io", "events"),
        ] },
    Role { namespace: "", name: "system:controller:volumeattributesclass-protection-controller", labels: "", aggregates: "", rules: &[
            on("get,list,watch", "", "persistentvolumeclaims"),
            on("get,list,watch", "", "persistentvolumes"),
            on("get,list,update,watch", "storage.k8s.io", "volumeattributesclasses"),
            on("create,patch,update", ",events.k8s.io", "events"),
        ] },
];

/// Roles inside the system namespaces.
pub(crate) const NAMESPACE_ROLES: &[Role] = &[
    Role { namespace: "kube-public", name: "system:controller:bootstrap-signer", labels: "", aggregates: "", rules: &[
            on("get,list,watch", "", "configmaps"),
            named("update", "", "configmaps", "cluster-info"),
            on("create,patch,update", ",events.k8s.io", "events"),
        ] },
    Role { namespace: "kube-system", name: "extension-apiserver-authentication-reader", labels: "", aggregates: "", rules: &[
            named("get,list,watch", "", "configmaps", "extension-apiserver-authentication"),
        ] },
    Role { namespace: "kube-system", name: "system::leader-locking-kube-controller-manager", labels: "", aggregates: "", rules: &[
            on("create,get,list,update,watch", "coordination.k8s.io", "leases"),
            on("create,get,list,update,watch", "coordination.k8s.io", "leasecandidates"),
        ] },
    Role { namespace: "kube-system", name: "system::leader-locking-kube-scheduler", labels: "", aggregates: "", rules: &[
            on("create,get,list,update,watch", "coordination.k8s.io", "leases"),
            on("create,get,list,update,watch", "coordination.k8s.io", "leasecandidates"),
        ] },
    Role { namespace: "kube-system", name: "system:controller:bootstrap-signer", labels: "", aggregates: "", rules: &[
            on("get,list,watch", "", "secrets"),
        ] },
    Role { namespace: "kube-system", name: "system:controller:cloud-provider", labels: "", aggregates: "", rules: &[
            on("create,get,list,watch", "", "configmaps"),
        ] },
    Role { namespace: "kube-system", name: "system:controller:token-cleaner", labels: "", aggregates: "", rules: &[
            on("delete,get,list,watch", "", "secrets"),
            on("create,patch,update", ",events.k8s.io", "events"),
        ] },
];

/// Who has them.
pub(crate) const CLUSTER_ROLE_BINDINGS: &[Binding] = &[
    Binding { namespace: "", name: "cluster-admin", role_kind: "ClusterRole", role: "cluster-admin", subjects: &["group:system:masters"] },
    Binding { namespace: "", name: "system:basic-user", role_kind: "ClusterRole", role: "system:basic-user", subjects: &["group:system:authenticated"] },
    Binding { namespace: "", name: "system:cluster-trust-bundle-discovery", role_kind: "ClusterRole", role: "system:cluster-trust-bundle-discovery", subjects: &["group:system:serviceaccounts"] },
    Binding { namespace: "", name: "system:discovery", role_kind: "ClusterRole", role: "system:discovery", subjects: &["group:system:authenticated"] },
    Binding { namespace: "", name: "system:kube-controller-manager", role_kind: "ClusterRole", role: "system:kube-controller-manager", subjects: &["user:system:kube-controller-manager"] },
    Binding { namespace: "", name: "system:kube-dns", role_kind: "ClusterRole", role: "system:kube-dns", subjects: &["sa:kube-system/kube-dns"] },
    Binding { namespace: "", name: "system:kube-scheduler", role_kind: "ClusterRole", role: "system:kube-scheduler", subjects: &["user:system:kube-scheduler"] },
    Binding { namespace: "", name: "system:monitoring", role_kind: "ClusterRole", role: "system:monitoring", subjects: &["group:system:monitoring"] },
    Binding { namespace: "", name: "system:node", role_kind: "ClusterRole", role: "system:node", subjects: &[] },
    Binding { namespace: "", name: "system:node-proxier", role_kind: "ClusterRole", role: "system:node-proxier", subjects: &["user:system:kube-proxy"] },
    Binding { namespace: "", name: "system:public-info-viewer", role_kind: "ClusterRole", role: "system:public-info-viewer", subjects: &["group:system:authenticated", "group:system:unauthenticated"] },
    Binding { namespace: "", name: "system:service-account-issuer-discovery", role_kind: "ClusterRole", role: "system:service-account-issuer-discovery", subjects: &["group:system:serviceaccounts"] },
    Binding { namespace: "", name: "system:volume-scheduler", role_kind: "ClusterRole", role: "system:volume-scheduler", subjects: &["user:system:kube-scheduler"] },
    Binding { namespace: "", name: "system:controller:attachdetach-controller", role_kind: "ClusterRole", role: "system:controller:attachdetach-controller", subjects: &["sa:kube-system/attachdetach-controller"] },
    Binding { namespace: "", name: "system:controller:certificate-controller", role_kind: "ClusterRole", role: "system:controller:certificate-controller", subjects: &["sa:kube-system/certificate-controller"] },
    Binding { namespace: "", name: "system:controller:clusterrole-aggregation-controller", role_kind: "ClusterRole", role: "system:controller:clusterrole-aggregation-controller", subjects: &["sa:kube-system/clusterrole-aggregation-controller"] },
    Binding { namespace: "", name: "system:controller:cronjob-controller", role_kind: "ClusterRole", role: "system:controller:cronjob-controller", subjects: &["sa:kube-system/cronjob-controller"] },
    Binding { namespace: "", name: "system:controller:daemon-set-controller", role_kind: "ClusterRole", role: "system:controller:daemon-set-controller", subjects: &["sa:kube-system/daemon-set-controller"] },
    Binding { namespace: "", name: "system:controller:deployment-controller", role_kind: "ClusterRole", role: "system:controller:deployment-controller", subjects: &["sa:kube-system/deployment-controller"] },
    Binding { namespace: "", name: "system:controller:device-taint-eviction-controller", role_kind: "ClusterRole", role: "system:controller:device-taint-eviction-controller", subjects: &["sa:kube-system/device-taint-eviction-controller"] },
    Binding { namespace: "", name: "system:controller:disruption-controller", role_kind: "ClusterRole", role: "system:controller:disruption-controller", subjects: &["sa:kube-system/disruption-controller"] },
    Binding { namespace: "", name: "system:controller:endpoint-controller", role_kind: "ClusterRole", role: "system:controller:endpoint-controller", subjects: &["sa:kube-system/endpoint-controller"] },
    Binding { namespace: "", name: "system:controller:endpointslice-controller", role_kind: "ClusterRole", role: "system:controller:endpointslice-controller", subjects: &["sa:kube-system/endpointslice-controller"] },
    Binding { namespace: "", name: "system:controller:endpointslicemirroring-controller", role_kind: "ClusterRole", role: "system:controller:endpointslicemirroring-controller", subjects: &["sa:kube-system/endpointslicemirroring-controller"] },
    Binding { namespace: "", name: "system:controller:ephemeral-volume-controller", role_kind: "ClusterRole", role: "system:controller:ephemeral-volume-controller", subjects: &["sa:kube-system/ephemeral-volume-controller"] },
    Binding { namespace: "", name: "system:controller:expand-controller", role_kind: "ClusterRole", role: "system:controller:expand-controller", subjects: &["sa:kube-system/expand-controller"] },
    Binding { namespace: "", name: "system:controller:generic-garbage-collector", role_kind: "ClusterRole", role: "system:controller:generic-garbage-collector", subjects: &["sa:kube-system/generic-garbage-collector"] },
    Binding { namespace: "", name: "system:controller:horizontal-pod-autoscaler", role_kind: "ClusterRole", role: "system:controller:horizontal-pod-autoscaler", subjects: &["sa:kube-system/horizontal-pod-autoscaler"] },
    Binding { namespace: "", name: "system:controller:job-controller", role_kind: "ClusterRole", role: "system:controller:job-controller", subjects: &["sa:kube-system/job-controller"] },
    Binding { namespace: "", name: "system:controller:kube-apiserver-serving-clustertrustbundle-publisher", role_kind: "ClusterRole", role: "system:controller:kube-apiserver-serving-clustertrustbundle-publisher", subjects: &["sa:kube-system/kube-apiserver-serving-clustertrustbundle-publisher"] },
    Binding { namespace: "", name: "system:controller:legacy-service-account-token-cleaner", role_kind: "ClusterRole", role: "system:controller:legacy-service-account-token-cleaner", subjects: &["sa:kube-system/legacy-service-account-token-cleaner"] },
    Binding { namespace: "", name: "system:controller:namespace-controller", role_kind: "ClusterRole", role: "system:controller:namespace-controller", subjects: &["sa:kube-system/namespace-controller"] },
    Binding { namespace: "", name: "system:controller:node-controller", role_kind: "ClusterRole", role: "system:controller:node-controller", subjects: &["sa:kube-system/node-controller"] },
    Binding { namespace: "", name: "system:controller:persistent-volume-binder", role_kind: "ClusterRole", role: "system:controller:persistent-volume-binder", subjects: &["sa:kube-system/persistent-volume-binder"] },
    Binding { namespace: "", name: "system:controller:pod-garbage-collector", role_kind: "ClusterRole", role: "system:controller:pod-garbage-collector", subjects: &["sa:kube-system/pod-garbage-collector"] },
    Binding { namespace: "", name: "system:controller:podcertificaterequestcleaner", role_kind: "ClusterRole", role: "system:controller:podcertificaterequestcleaner", subjects: &["sa:kube-system/podcertificaterequestcleaner"] },
    Binding { namespace: "", name: "system:controller:pv-protection-controller", role_kind: "ClusterRole", role: "system:controller:pv-protection-controller", subjects: &["sa:kube-system/pv-protection-controller"] },
    Binding { namespace: "", name: "system:controller:pvc-protection-controller", role_kind: "ClusterRole", role: "system:controller:pvc-protection-controller", subjects: &["sa:kube-system/pvc-protection-controller"] },
    Binding { namespace: "", name: "system:controller:replicaset-controller", role_kind: "ClusterRole", role: "system:controller:replicaset-controller", subjects: &["sa:kube-system/replicaset-controller"] },
    Binding { namespace: "", name: "system:controller:replication-controller", role_kind: "ClusterRole", role: "system:controller:replication-controller", subjects: &["sa:kube-system/replication-controller"] },
    Binding { namespace: "", name: "system:controller:resource-claim-controller", role_kind: "ClusterRole", role: "system:controller:resource-claim-controller", subjects: &["sa:kube-system/resource-claim-controller"] },
    Binding { namespace: "", name: "system:controller:resourcequota-controller", role_kind: "ClusterRole", role: "system:controller:resourcequota-controller", subjects: &["sa:kube-system/resourcequota-controller"] },
    Binding { namespace: "", name: "system:controller:root-ca-cert-publisher", role_kind: "ClusterRole", role: "system:controller:root-ca-cert-publisher", subjects: &["sa:kube-system/root-ca-cert-publisher"] },
    Binding { namespace: "", name: "system:controller:route-controller", role_kind: "ClusterRole", role: "system:controller:route-controller", subjects: &["sa:kube-system/route-controller"] },
    Binding { namespace: "", name: "system:controller:selinux-warning-controller", role_kind: "ClusterRole", role: "system:controller:selinux-warning-controller", subjects: &["sa:kube-system/selinux-warning-controller"] },
    Binding { namespace: "", name: "system:controller:service-account-controller", role_kind: "ClusterRole", role: "system:controller:service-account-controller", subjects: &["sa:kube-system/service-account-controller"] },
    Binding { namespace: "", name: "system:controller:service-cidrs-controller", role_kind: "ClusterRole", role: "system:controller:service-cidrs-controller", subjects: &["sa:kube-system/service-cidrs-controller"] },
    Binding { namespace: "", name: "system:controller:service-controller", role_kind: "ClusterRole", role: "system:controller:service-controller", subjects: &["sa:kube-system/service-controller"] },
    Binding { namespace: "", name: "system:controller:statefulset-controller", role_kind: "ClusterRole", role: "system:controller:statefulset-controller", subjects: &["sa:kube-system/statefulset-controller"] },
    Binding { namespace: "", name: "system:controller:storage-version-migrator-controller", role_kind: "ClusterRole", role: "system:controller:storage-version-migrator-controller", subjects: &["sa:kube-system/storage-version-migrator-controller"] },
    Binding { namespace: "", name: "system:controller:ttl-after-finished-controller", role_kind: "ClusterRole", role: "system:controller:ttl-after-finished-controller", subjects: &["sa:kube-system/ttl-after-finished-controller"] },
    Binding { namespace: "", name: "system:controller:ttl-controller", role_kind: "ClusterRole", role: "system:controller:ttl-controller", subjects: &["sa:kube-system/ttl-controller"] },
    Binding { namespace: "", name: "system:controller:validatingadmissionpolicy-status-controller", role_kind: "ClusterRole", role: "system:controller:validatingadmissionpolicy-status-controller", subjects: &["sa:kube-system/validatingadmissionpolicy-status-controller"] },
    Binding { namespace: "", name: "system:controller:volumeattributesclass-protection-controller", role_kind: "ClusterRole", role: "system:controller:volumeattributesclass-protection-controller", subjects: &["sa:kube-system/volumeattributesclass-protection-controller"] },
];

/// Who has those inside the system namespaces.
pub(crate) const NAMESPACE_ROLE_BINDINGS: &[Binding] = &[
    Binding { namespace: "kube-public", name: "system:controller:bootstrap-signer", role_kind: "Role", role: "system:controller:bootstrap-signer", subjects: &["sa:kube-system/bootstrap-signer"] },
    Binding { namespace: "kube-system", name: "system::extension-apiserver-authentication-reader", role_kind: "Role", role: "extension-apiserver-authentication-reader", subjects: &["user:system:kube-controller-manager", "user:system:kube-scheduler"] },
    Binding { namespace: "kube-system", name: "system::leader-locking-kube-controller-manager", role_kind: "Role", role: "system::leader-locking-kube-controller-manager", subjects: &["user:system:kube-controller-manager", "sa:kube-system/kube-controller-manager", "sa:kube-system/leader-election-controller"] },
    Binding { namespace: "kube-system", name: "system::leader-locking-kube-scheduler", role_kind: "Role", role: "system::leader-locking-kube-scheduler", subjects: &["user:system:kube-scheduler", "sa:kube-system/kube-scheduler"] },
    Binding { namespace: "kube-system", name: "system:controller:bootstrap-signer", role_kind: "Role", role: "system:controller:bootstrap-signer", subjects: &["sa:kube-system/bootstrap-signer"] },
    Binding { namespace: "kube-system", name: "system:controller:cloud-provider", role_kind: "Role", role: "system:controller:cloud-provider", subjects: &["sa:kube-system/cloud-provider"] },
    Binding { namespace: "kube-system", name: "system:controller:token-cleaner", role_kind: "Role", role: "system:controller:token-cleaner", subjects: &["sa:kube-system/token-cleaner"] },
];

