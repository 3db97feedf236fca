// Command generate writes types.txt: for every type of Kubernetes' stable API groups, the facts of its struct tags and markers
// (JSON names, types, what a zero value does, list types and keys, patch strategies, constant defaults, enumerations, field numbers).
//
//	go run generate.go DIR-OF-k8s.io/api DIR-OF-k8s.io/apimachinery > types.txt
//
// The directories are what `go mod download -json k8s.io/api@v0.37.2 k8s.io/apimachinery@v0.37.2` calls Dir. types.md says how to
// read the output.
package main

import (
	"bufio"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"sort"
	"strconv"
	"strings"
)

type namedType struct {
	name  string
	lines []string
}

var (
	types     = map[string]*namedType{}
	aliases   = map[string]map[string]string{} // package -> import name -> prefix
	constants = map[string][]string{}          // type -> values
	opaque    = map[string]bool{
		"meta.v1.Time": true, "meta.v1.MicroTime": true, "meta.v1.Duration": true, "meta.v1.FieldsV1": true,
		"meta.v1.Verbs": false,
	}
	stable = regexp.MustCompile(`^v[0-9]+$`)
)

func prefixOf(importPath string) string {
	switch importPath {
	case "k8s.io/apimachinery/pkg/apis/meta/v1":
		return "meta.v1"
	case "k8s.io/apimachinery/pkg/api/resource":
		return "resource"
	case "k8s.io/apimachinery/pkg/util/intstr":
		return "intstr"
	case "k8s.io/apimachinery/pkg/runtime":
		return "runtime"
	case "k8s.io/apimachinery/pkg/types":
		return "types"
	}
	if rest, ok := strings.CutPrefix(importPath, "k8s.io/api/"); ok {
		return strings.ReplaceAll(rest, "/", ".")
	}
	return ""
}

func expr(pkg string, e ast.Expr) string {
	switch t := e.(type) {
	case *ast.Ident:
		switch t.Name {
		case "string", "bool", "int32", "int64", "int", "float64", "byte", "uint8":
			return t.Name
		}
		return pkg + "." + t.Name
	case *ast.StarExpr:
		return "*" + expr(pkg, t.X)
	case *ast.ArrayType:
		if id, ok := t.Elt.(*ast.Ident); ok && id.Name == "byte" {
			return "bytes"
		}
		return "[]" + expr(pkg, t.Elt)
	case *ast.MapType:
		return "map[" + expr(pkg, t.Key) + "]" + expr(pkg, t.Value)
	case *ast.SelectorExpr:
		prefix := aliases[pkg][t.X.(*ast.Ident).Name]
		if prefix == "types" {
			return "string"
		}
		return prefix + "." + t.Sel.Name
	case *ast.InterfaceType:
		return "any"
	}
	panic(fmt.Sprintf("%s: unknown type expression %T", pkg, e))
}

func markers(groups ...*ast.CommentGroup) map[string][]string {
	out := map[string][]string{}
	for _, group := range groups {
		if group == nil {
			continue
		}
		for _, line := range strings.Split(group.Text(), "\n") {
			line = strings.TrimSpace(line)
			if rest, ok := strings.CutPrefix(line, "+"); ok {
				key, value, _ := strings.Cut(rest, "=")
				out[key] = append(out[key], value)
			}
		}
	}
	return out
}

func structLines(pkg string, s *ast.StructType) []string {
	var lines []string
	for _, field := range s.Fields.List {
		if field.Tag == nil {
			continue
		}
		raw, _ := strconv.Unquote(field.Tag.Value)
		tag := reflect.StructTag(raw)
		jsonTag, ok := tag.Lookup("json")
		if !ok || jsonTag == "-" {
			continue
		}
		parts := strings.Split(jsonTag, ",")
		marks := markers(field.Doc)
		attrs := []string{}
		name := parts[0]
		if name == "" && len(field.Names) == 0 {
			name = "~"
		}
		optional := false
		for _, option := range parts[1:] {
			switch option {
			case "omitempty":
				attrs = append(attrs, "o")
				optional = true
			case "omitzero":
				attrs = append(attrs, "z")
				optional = true
			case "inline":
				name = "~"
			}
		}
		if _, ok := marks["optional"]; ok {
			optional = true
		}
		if _, ok := marks["k8s:optional"]; ok {
			optional = true
		}
		if _, ok := marks["required"]; ok {
			optional = false
		}
		if !optional && name != "~" {
			attrs = append(attrs, "r")
		}
		if proto := strings.Split(tag.Get("protobuf"), ","); len(proto) > 1 {
			attrs = append(attrs, "#"+proto[1])
		}
		if strategy := tag.Get("patchStrategy"); strategy != "" {
			attrs = append(attrs, "p:"+strategy)
		}
		if key := tag.Get("patchMergeKey"); key != "" {
			attrs = append(attrs, "k:"+key)
		}
		if list, ok := marks["listType"]; ok {
			attr := "l:" + list[0]
			if keys := marks["listMapKey"]; len(keys) > 0 {
				attr += ":" + strings.Join(keys, ",")
			}
			attrs = append(attrs, attr)
		}
		if marks["structType"] != nil && marks["structType"][0] == "atomic" || marks["mapType"] != nil && marks["mapType"][0] == "atomic" {
			attrs = append(attrs, "a")
		}
		if value, ok := marks["default"]; ok && !strings.HasPrefix(value[0], "ref(") {
			attrs = append(attrs, "d:"+value[0])
		}
		if name == "~" && len(field.Names) == 0 {
			attrs = append([]string{}, attrs...)
		}
		lines = append(lines, strings.TrimSpace(name+" "+expr(pkg, field.Type)+" "+strings.Join(attrs, " ")))
	}
	return lines
}

func parsePackage(pkg, dir string, only map[string]bool) {
	set := token.NewFileSet()
	files, err := filepath.Glob(filepath.Join(dir, "*.go"))
	if err != nil {
		panic(err)
	}
	sort.Strings(files)
	aliases[pkg] = map[string]string{}
	for _, path := range files {
		base := filepath.Base(path)
		if strings.HasSuffix(base, "_test.go") || strings.HasPrefix(base, "zz_generated") || strings.HasPrefix(base, "generated") {
			continue
		}
		if only != nil && !only[base] {
			continue
		}
		file, err := parser.ParseFile(set, path, nil, parser.ParseComments)
		if err != nil {
			panic(err)
		}
		for _, spec := range file.Imports {
			importPath, _ := strconv.Unquote(spec.Path.Value)
			prefix := prefixOf(importPath)
			if prefix == "" {
				continue
			}
			name := filepath.Base(importPath)
			if spec.Name != nil {
				name = spec.Name.Name
			}
			aliases[pkg][name] = prefix
		}
		for _, decl := range file.Decls {
			general, ok := decl.(*ast.GenDecl)
			if !ok {
				continue
			}
			last := ""
			for _, spec := range general.Specs {
				switch s := spec.(type) {
				case *ast.TypeSpec:
					addType(pkg, general, s)
				case *ast.ValueSpec:
					if general.Tok != token.CONST {
						continue
					}
					if s.Type != nil {
						if id, ok := s.Type.(*ast.Ident); ok {
							last = pkg + "." + id.Name
						}
					}
					for _, value := range s.Values {
						if lit, ok := value.(*ast.BasicLit); ok && lit.Kind == token.STRING && s.Type != nil {
							text, _ := strconv.Unquote(lit.Value)
							constants[last] = append(constants[last], text)
						}
					}
				}
			}
		}
	}
}

func addType(pkg string, general *ast.GenDecl, s *ast.TypeSpec) {
	name := pkg + "." + s.Name.Name
	if !ast.IsExported(s.Name.Name) {
		return
	}
	if skip := opaque[name]; skip {
		return
	}
	marks := markers(general.Doc, s.Doc)
	head := "@" + name
	if m := marks["structType"]; m != nil && m[0] == "atomic" {
		head += " a"
	}
	if m := marks["mapType"]; m != nil && m[0] == "atomic" {
		head += " a"
	}
	t := &namedType{name: name}
	switch under := s.Type.(type) {
	case *ast.StructType:
		t.lines = append([]string{head}, structLines(pkg, under)...)
	case *ast.InterfaceType, *ast.FuncType:
		return
	default:
		head += " =" + expr(pkg, under)
		if _, ok := marks["enum"]; ok {
			head += " e"
		}
		t.lines = []string{head}
	}
	types[name] = t
}

func main() {
	api, machinery := os.Args[1], os.Args[2]
	groups, err := os.ReadDir(api)
	if err != nil {
		panic(err)
	}
	parsePackage("meta.v1", filepath.Join(machinery, "pkg/apis/meta/v1"), map[string]bool{"types.go": true})
	for _, group := range groups {
		versions, _ := os.ReadDir(filepath.Join(api, group.Name()))
		for _, version := range versions {
			if version.IsDir() && stable.MatchString(version.Name()) {
				parsePackage(group.Name()+"."+version.Name(), filepath.Join(api, group.Name(), version.Name()), nil)
			}
		}
	}
	names := make([]string, 0, len(types))
	for name := range types {
		names = append(names, name)
	}
	sort.Strings(names)
	out := bufio.NewWriter(os.Stdout)
	defer out.Flush()
	for _, name := range names {
		t := types[name]
		if strings.HasSuffix(t.lines[0], " e") {
			values := constants[name]
			sort.Strings(values)
			t.lines[0] += " " + strings.Join(values, " ")
		}
		for _, line := range t.lines {
			fmt.Fprintln(out, line)
		}
	}
}
