package config

import (
	"fmt"
	"slices"
	"strings"
)

const (
	modeVariable = "MULTI_DB_MODE"
	keysVariable = "MULTI_DB_TENANT_KEYS"
)

var modes = []string{"disabled", "mixed", "forced"}

// overlay applies the environment, which stands above the file for the mode and below it for a
// single tenant.
func (l *loader) overlay() {
	l.overlayMode()
	l.overlayKeys()
}

func (l *loader) overlayMode() {
	mode := strings.TrimSpace(l.env(modeVariable))
	switch {
	case mode == "":
	case slices.Contains(modes, mode):
		l.cfg.Routing.Mode = mode
	default:
		l.refuse(place{path: modeVariable}, show(mode)+" is not a mode", "set one of "+alternatives(modes))
	}
}

func (l *loader) overlayKeys() {
	text := l.env(keysVariable)
	if strings.TrimSpace(text) == "" {
		return
	}
	byKey := make(map[string]int, len(l.cfg.Tenants))
	for i, t := range l.cfg.Tenants {
		byKey[t.Key] = i
	}
	seen := make(map[string]bool)
	for i, key := range strings.Split(text, ",") {
		key = strings.TrimSpace(key)
		at := place{path: keysVariable}
		switch {
		case key == "":
			l.refuse(at, fmt.Sprintf("entry %d is empty", i+1), "remove the extra comma")
			continue
		case seen[key]:
			l.refuse(at, show(key)+" is listed twice", "list it once")
			continue
		}
		seen[key] = true
		l.cfg.TenantKeys = append(l.cfg.TenantKeys, key)
		if listed, ok := byKey[key]; ok {
			if t := &l.cfg.Tenants[listed]; t.Mode == "" {
				t.Mode = "per-tenant"
			}
			continue
		}
		l.cfg.Tenants = append(l.cfg.Tenants,
			Tenant{ID: rawValue(key), Key: key, Mode: "per-tenant", Source: keysVariable})
		l.tenantAt = append(l.tenantAt, at)
	}
}
