// Package demo is tenantry's test ground from outside: real drivers doing the
// same work twice, against a server and through the proxy in front of another,
// and the outcomes compared line by line. It is a module of its own so that
// what it needs (FerretDB, client drivers) is not among what the proxy needs.
//
// setup.sh installs what is not Go; tests say what they miss and skip, with
// CI=true they fail.
package demo
