package main

import (
	"fmt"
	"slices"
	"strings"

	v1 "k8s.io/api/core/v1"
	net "k8s.io/api/networking/v1"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// world is all that the rules are made from, at one moment.
type world struct {
	pods     []*v1.Pod // running ones with an address of their own, in order of the address
	spaces   map[string]labels.Set
	policies []*net.NetworkPolicy
}

// peers are the other ends that one rule of a policy names.
type peers struct {
	everybody bool
	pods      []*v1.Pod
	blocks    []*net.IPBlock
}

func selects(selector *meta.LabelSelector, set labels.Set) bool {
	s, err := meta.LabelSelectorAsSelector(selector)
	return err == nil && s.Matches(set)
}

// matches tells whether a peer of a policy in namespace home means this pod.
func (w *world) matches(peer net.NetworkPolicyPeer, home string, pod *v1.Pod) bool {
	if peer.NamespaceSelector == nil && pod.Namespace != home {
		return false
	}
	if peer.NamespaceSelector != nil && !selects(peer.NamespaceSelector, w.spaces[pod.Namespace]) {
		return false
	}
	return peer.PodSelector == nil || selects(peer.PodSelector, pod.Labels)
}

func (w *world) resolve(list []net.NetworkPolicyPeer, home string) peers {
	found := peers{everybody: len(list) == 0}
	for _, pod := range w.pods {
		named := slices.ContainsFunc(list, func(p net.NetworkPolicyPeer) bool {
			return p.IPBlock == nil && w.matches(p, home, pod)
		})
		if named {
			found.pods = append(found.pods, pod)
		}
	}
	for _, peer := range list {
		if peer.IPBlock != nil {
			found.blocks = append(found.blocks, peer.IPBlock)
		}
	}
	return found
}

// addresses gives one nft match for each kind of peer. Sets and blocks stay apart, since
// an nft set refuses intervals that overlap.
func (p peers) addresses(side string) []string {
	if p.everybody {
		return []string{""}
	}
	var out []string
	if len(p.pods) > 0 {
		var list []string
		for _, pod := range p.pods {
			list = append(list, pod.Status.PodIP)
		}
		out = append(out, fmt.Sprintf("ip %s { %s } ", side, strings.Join(list, ", ")))
	}
	for _, block := range p.blocks {
		match := fmt.Sprintf("ip %s %s ", side, block.CIDR)
		for _, hole := range block.Except {
			match += fmt.Sprintf("ip %s != %s ", side, hole)
		}
		out = append(out, match)
	}
	return out
}

func protocol(port net.NetworkPolicyPort) string {
	if port.Protocol == nil {
		return "tcp"
	}
	return strings.ToLower(string(*port.Protocol))
}

// named gives the numbers that a pod has for a port name.
func named(port net.NetworkPolicyPort, pod *v1.Pod) []string {
	var out []string
	for _, c := range pod.Spec.Containers {
		for _, p := range c.Ports {
			if p.Name == port.Port.StrVal && strings.EqualFold(string(p.Protocol), protocol(port)) {
				out = append(out, fmt.Sprintf("%s dport %d ", protocol(port), p.ContainerPort))
			}
		}
	}
	return out
}

// numbered gives the match of a port that is no name.
func numbered(port net.NetworkPolicyPort) string {
	switch {
	case port.Port == nil:
		return "meta l4proto " + protocol(port) + " "
	case port.EndPort != nil:
		return fmt.Sprintf("%s dport %d-%d ", protocol(port), port.Port.IntVal, *port.EndPort)
	default:
		return fmt.Sprintf("%s dport %d ", protocol(port), port.Port.IntVal)
	}
}

// allowed gives the nft matches of one rule. A port's name is looked up where the
// connection ends: for ingress in the pod itself, for egress in each peer.
func allowed(pod *v1.Pod, side string, other peers, ports []net.NetworkPolicyPort) []string {
	if len(ports) == 0 {
		return other.addresses(side)
	}
	var out []string
	for _, port := range ports {
		byName := port.Port != nil && port.Port.Type == intstr.String
		switch {
		case byName && side == "daddr":
			for _, peer := range other.pods {
				for _, match := range named(port, peer) {
					out = append(out, fmt.Sprintf("ip daddr %s %s", peer.Status.PodIP, match))
				}
			}
		case byName:
			for _, match := range named(port, pod) {
				out = append(out, join(other.addresses(side), match)...)
			}
		default:
			out = append(out, join(other.addresses(side), numbered(port))...)
		}
	}
	return out
}

func join(matches []string, tail string) []string {
	var out []string
	for _, m := range matches {
		out = append(out, m+tail)
	}
	return out
}

// guard gives what a pod may do in one direction, and whether any policy limits it at all.
func (w *world) guard(pod *v1.Pod, dir net.PolicyType) (rules []string, limited bool) {
	for _, np := range w.policies {
		if np.Namespace != pod.Namespace || !selects(&np.Spec.PodSelector, pod.Labels) ||
			!slices.Contains(np.Spec.PolicyTypes, dir) {
			continue
		}
		limited = true
		if dir == net.PolicyTypeIngress {
			for _, r := range np.Spec.Ingress {
				rules = append(rules, allowed(pod, "saddr", w.resolve(r.From, np.Namespace), r.Ports)...)
			}
			continue
		}
		for _, r := range np.Spec.Egress {
			rules = append(rules, allowed(pod, "daddr", w.resolve(r.To, np.Namespace), r.Ports)...)
		}
	}
	return rules, limited
}

// ruleset is the whole table of one node. A node guards the pods that run on it.
func (w *world) ruleset(node string) string {
	var chains strings.Builder
	var in, out []string
	write := func(name string, rules []string, verdict string) {
		fmt.Fprintf(&chains, "\tchain %s {\n", name)
		for _, r := range rules {
			fmt.Fprintf(&chains, "\t\t%s%s\n", r, verdict)
		}
		chains.WriteString("\t\tdrop\n\t}\n")
	}
	for _, pod := range w.pods {
		if pod.Spec.NodeName != node {
			continue
		}
		ip := pod.Status.PodIP
		id := strings.ReplaceAll(ip, ".", "-")
		if rules, limited := w.guard(pod, net.PolicyTypeIngress); limited {
			write("in-"+id, rules, "accept")
			in = append(in, ip+" : jump in-"+id)
		}
		if rules, limited := w.guard(pod, net.PolicyTypeEgress); limited {
			// What may leave must still be let in at the other end: return, not accept.
			write("out-"+id, rules, "return")
			out = append(out, ip+" : jump out-"+id)
		}
	}
	verdicts := func(key string, jumps []string) string {
		if len(jumps) == 0 {
			return ""
		}
		return fmt.Sprintf("\t\tip %s vmap { %s }\n", key, strings.Join(jumps, ", "))
	}
	return "table ip netpol\ndelete table ip netpol\ntable ip netpol {\n" + chains.String() +
		"\tchain forward {\n\t\ttype filter hook forward priority filter - 5; policy accept;\n" +
		"\t\tct state established,related accept\n" + verdicts("saddr", out) + verdicts("daddr", in) +
		"\t}\n}\n"
}
