// Command netpol enforces NetworkPolicies on one node with one nftables table, which it
// writes anew in a single transaction whenever pods, namespaces or policies change. It
// knows both directions, pod, namespace and ipBlock peers, numbers, ranges and names of
// ports. It sees true addresses: kube-proxy translates Services before the forward hook,
// and br_netfilter brings the traffic between the pods of one node into that hook too.
//
// Known gaps, fit for tests only: a connection that is open when a policy arrives goes
// on; a new pod is open until its node has seen it (some 0.3 s); traffic between a pod
// and the node it runs on (probes among it) is never stopped; IPv4 alone.
package main

import (
	"context"
	"flag"
	"fmt"
	"log"
	"os/exec"
	"slices"
	"strings"
	"time"

	v1 "k8s.io/api/core/v1"
	net "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/clientcmd"
)

// settle is how long changes are gathered before the table is written.
const settle = 200 * time.Millisecond

// retry is the pause after nft refused a table.
const retry = time.Second

func main() {
	config := flag.String("kubeconfig", "", "file that leads to the API server")
	node := flag.String("node", "", "name of this node")
	flag.Parse()
	if err := run(*config, *node); err != nil {
		log.Fatal(err)
	}
}

func run(config, node string) error {
	rest, err := clientcmd.BuildConfigFromFlags("", config)
	if err != nil {
		return err
	}
	client, err := kubernetes.NewForConfig(rest)
	if err != nil {
		return err
	}
	factory := informers.NewSharedInformerFactory(client, 0)
	// One waiting signal is enough: whoever takes it looks at everything.
	changed := make(chan struct{}, 1)
	poke := func() {
		select {
		case changed <- struct{}{}:
		default:
		}
	}
	handler := cache.ResourceEventHandlerFuncs{
		AddFunc:    func(any) { poke() },
		UpdateFunc: func(any, any) { poke() },
		DeleteFunc: func(any) { poke() },
	}
	for _, informer := range []cache.SharedIndexInformer{
		factory.Core().V1().Pods().Informer(),
		factory.Core().V1().Namespaces().Informer(),
		factory.Networking().V1().NetworkPolicies().Informer(),
	} {
		if _, err := informer.AddEventHandler(handler); err != nil {
			return err
		}
	}
	ctx := context.Background()
	factory.Start(ctx.Done())
	factory.WaitForCacheSync(ctx.Done())
	last := ""
	for range changed {
		w, err := look(factory)
		if err != nil {
			return err
		}
		if rules := w.ruleset(node); rules != last {
			if err := load(rules); err != nil {
				log.Print(err)
				time.AfterFunc(retry, poke)
				continue
			}
			last = rules
		}
		time.Sleep(settle)
	}
	return nil
}

// look copies what the informers know. Pods without an address of their own are left out.
func look(factory informers.SharedInformerFactory) (*world, error) {
	w := &world{spaces: map[string]labels.Set{}}
	pods, err := factory.Core().V1().Pods().Lister().List(labels.Everything())
	if err != nil {
		return nil, err
	}
	for _, p := range pods {
		ended := p.Status.Phase == v1.PodSucceeded || p.Status.Phase == v1.PodFailed
		if p.Status.PodIP != "" && !p.Spec.HostNetwork && !ended {
			w.pods = append(w.pods, p)
		}
	}
	slices.SortFunc(w.pods, func(a, b *v1.Pod) int { return strings.Compare(a.Status.PodIP, b.Status.PodIP) })
	spaces, err := factory.Core().V1().Namespaces().Lister().List(labels.Everything())
	if err != nil {
		return nil, err
	}
	for _, n := range spaces {
		w.spaces[n.Name] = n.Labels
	}
	w.policies, err = factory.Networking().V1().NetworkPolicies().Lister().List(labels.Everything())
	slices.SortFunc(w.policies, func(a, b *net.NetworkPolicy) int {
		return strings.Compare(a.Namespace+"/"+a.Name, b.Namespace+"/"+b.Name)
	})
	return w, err
}

func load(rules string) error {
	nft := exec.Command("nft", "-f", "-")
	nft.Stdin = strings.NewReader(rules)
	if out, err := nft.CombinedOutput(); err != nil {
		return fmt.Errorf("nft: %w\n%s\n%s", err, out, rules)
	}
	return nil
}
