package main

import (
	"strings"
	"testing"

	v1 "k8s.io/api/core/v1"
	net "k8s.io/api/networking/v1"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/intstr"
)

func pod(space, app, node, ip string, ports ...v1.ContainerPort) *v1.Pod {
	return &v1.Pod{
		ObjectMeta: meta.ObjectMeta{Namespace: space, Name: app, Labels: map[string]string{"app": app}},
		Spec:       v1.PodSpec{NodeName: node, Containers: []v1.Container{{Ports: ports}}},
		Status:     v1.PodStatus{PodIP: ip},
	}
}

func app(name string) *meta.LabelSelector {
	return &meta.LabelSelector{MatchLabels: map[string]string{"app": name}}
}

func policy(target string, spec net.NetworkPolicySpec) *net.NetworkPolicy {
	spec.PodSelector = *app(target)
	return &net.NetworkPolicy{ObjectMeta: meta.ObjectMeta{Namespace: "a", Name: target}, Spec: spec}
}

func port(p intstr.IntOrString) []net.NetworkPolicyPort {
	return []net.NetworkPolicyPort{{Port: &p}}
}

// sample holds a server on node n1, a friend and a stranger of its namespace, and one of another namespace.
func sample(policies ...*net.NetworkPolicy) *world {
	return &world{
		pods: []*v1.Pod{
			pod("a", "server", "n1", "10.0.0.1", v1.ContainerPort{Name: "sql", ContainerPort: 5432, Protocol: v1.ProtocolTCP}),
			pod("a", "friend", "n2", "10.0.0.2"),
			pod("a", "stranger", "n2", "10.0.0.3"),
			pod("b", "friend", "n3", "10.0.0.4"),
		},
		spaces:   map[string]labels.Set{"a": {"name": "a"}, "b": {"name": "b"}},
		policies: policies,
	}
}

func expect(t *testing.T, rules, chain string, lines ...string) {
	t.Helper()
	want := "\tchain " + chain + " {\n"
	for _, l := range lines {
		want += "\t\t" + l + "\n"
	}
	if want += "\t\tdrop\n\t}\n"; !strings.Contains(rules, want) {
		t.Errorf("want\n%s\nin\n%s", want, rules)
	}
}

func TestWithoutPolicyNothingIsLimited(t *testing.T) {
	if rules := sample().ruleset("n1"); strings.Contains(rules, "drop") || strings.Contains(rules, "vmap") {
		t.Error(rules)
	}
}

func TestIngressFromAPodOfTheSameNamespaceByPortName(t *testing.T) {
	p := policy("server", net.NetworkPolicySpec{
		PolicyTypes: []net.PolicyType{net.PolicyTypeIngress},
		Ingress: []net.NetworkPolicyIngressRule{{
			From: []net.NetworkPolicyPeer{{PodSelector: app("friend")}}, Ports: port(intstr.FromString("sql")),
		}},
	})
	rules := sample(p).ruleset("n1")
	expect(t, rules, "in-10-0-0-1", "ip saddr { 10.0.0.2 } tcp dport 5432 accept")
	if !strings.Contains(rules, "ip daddr vmap { 10.0.0.1 : jump in-10-0-0-1 }") {
		t.Error(rules)
	}
	if other := sample(p).ruleset("n2"); strings.Contains(other, "chain in-") {
		t.Error("a node guards a pod of another node: " + other)
	}
}

func TestPeersOfAnotherNamespaceNeedItsSelector(t *testing.T) {
	space := &meta.LabelSelector{MatchLabels: map[string]string{"name": "b"}}
	p := policy("server", net.NetworkPolicySpec{
		PolicyTypes: []net.PolicyType{net.PolicyTypeIngress},
		Ingress: []net.NetworkPolicyIngressRule{{
			From: []net.NetworkPolicyPeer{{NamespaceSelector: space, PodSelector: app("friend")}},
		}},
	})
	expect(t, sample(p).ruleset("n1"), "in-10-0-0-1", "ip saddr { 10.0.0.4 } accept")
}

func TestAPolicyWithoutRulesShutsThePod(t *testing.T) {
	p := policy("server", net.NetworkPolicySpec{PolicyTypes: []net.PolicyType{net.PolicyTypeIngress}})
	expect(t, sample(p).ruleset("n1"), "in-10-0-0-1")
}

func TestPeersThatNobodyMatchesLetNobodyIn(t *testing.T) {
	p := policy("server", net.NetworkPolicySpec{
		PolicyTypes: []net.PolicyType{net.PolicyTypeIngress},
		Ingress:     []net.NetworkPolicyIngressRule{{From: []net.NetworkPolicyPeer{{PodSelector: app("nobody")}}}},
	})
	expect(t, sample(p).ruleset("n1"), "in-10-0-0-1")
}

func TestEgressLooksUpAPortNameAtTheOtherEndAndMustStillBeLetIn(t *testing.T) {
	p := policy("friend", net.NetworkPolicySpec{
		PolicyTypes: []net.PolicyType{net.PolicyTypeEgress},
		Egress: []net.NetworkPolicyEgressRule{{
			To: []net.NetworkPolicyPeer{{PodSelector: app("server")}}, Ports: port(intstr.FromString("sql")),
		}},
	})
	expect(t, sample(p).ruleset("n2"), "out-10-0-0-2", "ip daddr 10.0.0.1 tcp dport 5432 return")
}

func TestBlocksHaveHolesAndPortsHaveRanges(t *testing.T) {
	low, high := intstr.FromInt32(8000), int32(8010)
	p := policy("server", net.NetworkPolicySpec{
		PolicyTypes: []net.PolicyType{net.PolicyTypeIngress},
		Ingress: []net.NetworkPolicyIngressRule{{
			From:  []net.NetworkPolicyPeer{{IPBlock: &net.IPBlock{CIDR: "10.0.0.0/8", Except: []string{"10.1.0.0/16"}}}},
			Ports: []net.NetworkPolicyPort{{Port: &low, EndPort: &high}},
		}},
	})
	expect(t, sample(p).ruleset("n1"), "in-10-0-0-1", "ip saddr 10.0.0.0/8 ip saddr != 10.1.0.0/16 tcp dport 8000-8010 accept")
}
