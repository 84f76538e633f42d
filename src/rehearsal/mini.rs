//! Stand-in until the whole server is merged.
#![allow(missing_docs, clippy::unwrap_used, missing_debug_implementations, clippy::too_many_lines)]
use super::store::{Store, Table, device_key};
use crate::{
    map::{json, mask, path},
    model::ids::{DevAddrPrefix, Eui64, NetId},
    proto,
    wire::codec::DynamicCodec,
};
use prost_reflect::{DynamicMessage, ReflectMessage as _, Value, prost::Message as _};
use std::{
    future::Future,
    io,
    net::SocketAddr,
    path::{Path, PathBuf},
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};
use tonic::{Code, Status, metadata::MetadataMap};

pub const ADMIN: &str = "admin";
#[derive(Debug, Clone)]
pub struct Settings {
    pub name: String,
    pub host: String,
    pub net_id: NetId,
    pub dev_addr_prefixes: Vec<DevAddrPrefix>,
    pub join_eui_prefixes: Vec<(Eui64, u8)>,
    pub api_key: String,
    pub rate_limit: Option<RateLimit>,
    pub refused_paths: Vec<String>,
    pub state: Option<PathBuf>,
}
impl Default for Settings {
    fn default() -> Self {
        Self {
            name: "x".into(),
            host: "127.0.0.1".into(),
            net_id: NetId([0; 3]),
            dev_addr_prefixes: vec!["00000000/7".parse().unwrap()],
            join_eui_prefixes: vec![(Eui64([0; 8]), 0)],
            api_key: "NNSXS.AAAA.BBBB".into(),
            rate_limit: None,
            refused_paths: vec![],
            state: None,
        }
    }
}
#[derive(Debug, Clone)]
pub struct RateLimit;
impl RateLimit {
    pub fn per_entity(_: u32, _: Duration) -> Self {
        Self
    }
}
#[derive(Debug, Clone)]
pub struct CallInfo {
    pub n: usize,
    pub method: String,
    pub is_write: bool,
}
#[derive(Debug, Clone)]
pub enum Fault {
    Status(Code),
    Delay(Duration),
    CutBefore,
    CutAfter,
}
type Hook = Box<dyn Fn(&CallInfo) -> Option<Fault> + Send + Sync>;
pub struct Tts {
    settings: Settings,
    store: Mutex<Store>,
    hooks: Mutex<Vec<Hook>>,
    calls: Mutex<Vec<CallInfo>>,
    n: AtomicUsize,
}
impl std::fmt::Debug for Tts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Tts")
    }
}
#[derive(Debug)]
pub struct Served {
    pub addr: SocketAddr,
    stop: Option<tokio::sync::oneshot::Sender<()>>,
}
impl Drop for Served {
    fn drop(&mut self) {
        if let Some(s) = self.stop.take() {
            let _ = s.send(());
        }
    }
}
type Res = Result<(DynamicMessage, Option<usize>), Status>;
fn fail(code: Code, ns: &str, name: &str, attrs: &[(&str, Value)]) -> Status {
    let mut d = proto::message("ErrorDetails");
    path::set(&mut d, "namespace", Value::String(ns.into()));
    path::set(&mut d, "name", Value::String(name.into()));
    path::set(&mut d, "code", Value::U32(code as u32));
    if !attrs.is_empty() {
        let fields = attrs
            .iter()
            .map(|(k, v)| {
                let mut m = proto::message("google.protobuf.Value");
                m.set_field_by_name(
                    if matches!(v, Value::String(_)) { "string_value" } else { "list_value" },
                    v.clone(),
                );
                (prost_reflect::MapKey::String((*k).into()), Value::Message(m))
            })
            .collect();
        let mut s = proto::message("google.protobuf.Struct");
        s.set_field_by_name("fields", Value::Map(fields));
        path::set(&mut d, "attributes", Value::Message(s));
    }
    let msg = format!("error:{ns}:{name} ({name})");
    #[derive(Clone, PartialEq, prost::Message)]
    struct Rpc {
        #[prost(int32, tag = "1")]
        code: i32,
        #[prost(string, tag = "2")]
        message: String,
        #[prost(message, repeated, tag = "3")]
        details: Vec<prost_types::Any>,
    }
    let any = prost_types::Any {
        type_url: "type.googleapis.com/ttn.lorawan.v3.ErrorDetails".into(),
        value: d.encode_to_vec(),
    };
    let rpc = Rpc { code: code as i32, message: msg.clone(), details: vec![any] };
    Status::with_details(code, msg, rpc.encode_to_vec().into())
}
fn now() -> Value {
    let t = jiff::Timestamp::now();
    let mut m = proto::message("google.protobuf.Timestamp");
    m.set_field_by_name("seconds", Value::I64(t.as_second()));
    m.set_field_by_name("nanos", Value::I32(t.subsec_nanosecond()));
    Value::Message(m)
}
impl Tts {
    pub fn new(settings: Settings) -> io::Result<Arc<Self>> {
        let store = match &settings.state {
            Some(p) => Store::open(p)?,
            None => Store::in_memory(),
        };
        Ok(Arc::new(Self {
            settings,
            store: Mutex::new(store),
            hooks: Mutex::default(),
            calls: Mutex::default(),
            n: AtomicUsize::new(0),
        }))
    }
    pub fn store(&self) -> MutexGuard<'_, Store> {
        self.store.lock().unwrap()
    }
    pub fn settings(&self) -> &Settings {
        &self.settings
    }
    pub fn on_call(&self, hook: impl Fn(&CallInfo) -> Option<Fault> + Send + Sync + 'static) {
        self.hooks.lock().unwrap().push(Box::new(hook));
    }
    pub fn calls(&self) -> Vec<CallInfo> {
        self.calls.lock().unwrap().clone()
    }
    fn call(&self, p: &str, req: &DynamicMessage) -> Res {
        let (svc, m) =
            p.trim_start_matches('/').trim_start_matches("ttn.lorawan.v3.").split_once('/').unwrap();
        let rpc = format!("{svc}/{m}");
        let paths = mask::of(req);
        let allowed = mask::allowed(&rpc);
        let bad: Vec<_> = paths
            .iter()
            .filter(|p| !allowed.contains(&p.as_str()) || self.settings.refused_paths.contains(p))
            .cloned()
            .collect();
        if !allowed.is_empty() && !bad.is_empty() {
            let vals = bad
                .into_iter()
                .map(|s| {
                    let mut m = proto::message("google.protobuf.Value");
                    m.set_field_by_name("string_value", Value::String(s));
                    Value::Message(m)
                })
                .collect();
            let mut l = proto::message("google.protobuf.ListValue");
            l.set_field_by_name("values", Value::List(vals));
            return Err(fail(
                Code::InvalidArgument,
                "pkg/rpcmiddleware/validator",
                "field_mask_paths",
                &[("forbidden_paths", Value::Message(l))],
            ));
        }
        let out = || proto::method(p).unwrap().output();
        let mut store = self.store();
        let table = |s: &str| match s {
            "EndDeviceRegistry" => Table::Is,
            "JsEndDeviceRegistry" => Table::Js,
            "AsEndDeviceRegistry" => Table::As,
            _ => Table::Ns,
        };
        let nf = |t: Table| match t {
            Table::Is => fail(Code::NotFound, "pkg/identityserver/store", "end_device_not_found", &[]),
            Table::Js => fail(Code::NotFound, "pkg/joinserver", "device_not_found", &[]),
            _ => fail(Code::NotFound, "pkg/redis", "not_found", &[]),
        };
        let one = |m: DynamicMessage| Ok((m, None));
        match rpc.as_str() {
            "Ns/GetDeviceAddressPrefixes" => {
                let mut r = DynamicMessage::new(out());
                let l = self
                    .settings
                    .dev_addr_prefixes
                    .iter()
                    .map(|x| {
                        let mut b = x.addr.0.to_vec();
                        b.push(x.bits);
                        Value::Bytes(b.into())
                    })
                    .collect();
                r.set_field_by_name("dev_addr_prefixes", Value::List(l));
                one(r)
            }
            "Js/GetJoinEUIPrefixes" => {
                let mut r = DynamicMessage::new(out());
                let l = self
                    .settings
                    .join_eui_prefixes
                    .iter()
                    .map(|(e, n)| {
                        let mut m = proto::message("JoinEUIPrefix");
                        path::set(&mut m, "join_eui", Value::Bytes(e.0.to_vec().into()));
                        path::set(&mut m, "length", Value::U32(u32::from(*n)));
                        Value::Message(m)
                    })
                    .collect();
                r.set_field_by_name("prefixes", Value::List(l));
                one(r)
            }
            "Configuration/ListFrequencyPlans" => {
                let mut r = DynamicMessage::new(out());
                let l = ["EU_863_870", "EU_863_870_TTN"]
                    .map(|id| {
                        let mut m = proto::message("FrequencyPlanDescription");
                        path::set(&mut m, "id", Value::String(id.into()));
                        path::set(&mut m, "band_id", Value::String("EU_863_870".into()));
                        Value::Message(m)
                    })
                    .to_vec();
                r.set_field_by_name("frequency_plans", Value::List(l));
                one(r)
            }
            "Configuration/GetPhyVersions" | "Ns/GetDefaultMACSettings" => one(DynamicMessage::new(out())),
            "ApplicationAccess/ListRights" => {
                let mut r = DynamicMessage::new(out());
                r.set_field_by_name("rights", Value::List(vec![Value::EnumNumber(28)]));
                one(r)
            }
            "ApplicationRegistry/Get" => {
                let id = path::string(req, "application_ids.application_id");
                store.get(Table::Applications, &id).map(|a| (path::project(a, &paths), None)).ok_or_else(
                    || fail(Code::NotFound, "pkg/identityserver/store", "application_not_found", &[]),
                )
            }
            "ApplicationRegistry/Create" => {
                let a = path::child(req, "application").unwrap();
                let id = path::string(&a, "ids.application_id");
                store.put(Table::Applications, &id, a.clone()).unwrap();
                one(a)
            }
            "As/GetLink" => {
                let id = path::string(req, "application_ids.application_id");
                store
                    .get(Table::Links, &id)
                    .map(|a| (path::project(a, &paths), None))
                    .ok_or_else(|| fail(Code::NotFound, "pkg/redis", "not_found", &[]))
            }
            "As/SetLink" => {
                let id = path::string(req, "application_ids.application_id");
                let a = path::child(req, "link").unwrap();
                store.put(Table::Links, &id, a.clone()).unwrap();
                one(a)
            }
            "EndDeviceRegistry/List" => {
                let app = path::string(req, "application_ids.application_id");
                let all: Vec<_> = store
                    .iter(Table::Is)
                    .filter(|(k, _)| k.starts_with(&format!("{app}.")))
                    .map(|(_, v)| {
                        let mut v2 = path::project(v, &paths);
                        path::apply(&mut v2, v, &["ids"]);
                        Value::Message(v2)
                    })
                    .collect();
                let n = all.len();
                let limit = path::number(req, "limit").max(1) as usize;
                let page = path::number(req, "page").max(1) as usize;
                let mut r = DynamicMessage::new(out());
                r.set_field_by_name(
                    "end_devices",
                    Value::List(all.into_iter().skip((page - 1) * limit).take(limit).collect()),
                );
                Ok((r, Some(n)))
            }
            "EndDeviceRegistry/GetIdentifiersForEUIs" => {
                let f = store
                    .iter(Table::Is)
                    .find(|(_, v)| {
                        path::bytes(v, "ids.join_eui") == path::bytes(req, "join_eui")
                            && path::bytes(v, "ids.dev_eui") == path::bytes(req, "dev_eui")
                    })
                    .and_then(|(_, v)| path::child(v, "ids"));
                f.map(|f| (f, None)).ok_or_else(|| nf(Table::Is))
            }
            "EndDeviceRegistry/Create" => {
                let mut d = path::child(req, "end_device").unwrap();
                let k = device_key(
                    &path::string(&d, "ids.application_ids.application_id"),
                    &path::string(&d, "ids.device_id"),
                );
                if store.get(Table::Is, &k).is_some() {
                    return Err(fail(Code::AlreadyExists, "pkg/util/store", "id_taken", &[]));
                }
                path::set(&mut d, "created_at", now());
                store.put(Table::Is, &k, d.clone()).unwrap();
                one(d)
            }
            _ if m == "Get" && svc.ends_with("EndDeviceRegistry") => {
                let t = table(svc);
                let k = device_key(
                    &path::string(req, "end_device_ids.application_ids.application_id"),
                    &path::string(req, "end_device_ids.device_id"),
                );
                let v = store.get(t, &k).ok_or_else(|| nf(t))?;
                let mut r = path::project(v, &paths);
                path::apply(&mut r, v, &["ids"]);
                one(r)
            }
            _ if m == "Set" && svc.ends_with("EndDeviceRegistry") => {
                let t = table(svc);
                let d = path::child(req, "end_device").unwrap();
                let k = device_key(
                    &path::string(&d, "ids.application_ids.application_id"),
                    &path::string(&d, "ids.device_id"),
                );
                let old = store.get(t, &k).cloned();
                let new = old.is_none();
                let mut v = old.unwrap_or_else(|| {
                    let mut v = proto::message("EndDevice");
                    path::apply(&mut v, &d, &["ids"]);
                    path::clear(&mut v, "ids.dev_addr");
                    v
                });
                path::apply(&mut v, &d, &paths);
                if t == Table::Ns && new {
                    if path::has(&v, "session.dev_addr") {
                        path::set(&mut v, "session.started_at", now());
                        let a = path::get(&v, "session.dev_addr").unwrap().into_owned();
                        path::set(&mut v, "ids.dev_addr", a);
                    }
                }
                store.put(t, &k, v.clone()).unwrap();
                one(v)
            }
            _ if m == "Delete" && svc.ends_with("EndDeviceRegistry") => {
                let t = table(svc);
                let k = device_key(
                    &path::string(req, "application_ids.application_id"),
                    &path::string(req, "device_id"),
                );
                store.remove(t, &k).unwrap().ok_or_else(|| nf(t))?;
                one(DynamicMessage::new(out()))
            }
            _ if m.starts_with("List") => one(DynamicMessage::new(out())),
            _ => Err(Status::unimplemented(p.to_owned())),
        }
    }
}
pub fn load(tts: &Tts, devices: Option<&Path>, application: Option<&Path>) -> Result<(), String> {
    let mut store = tts.store();
    if let Some(p) = devices {
        for line in std::fs::read_to_string(p).map_err(|e| e.to_string())?.lines() {
            let v: serde_json::Value = serde_json::from_str(line).map_err(|e| e.to_string())?;
            for (n, t) in [("is", Table::Is), ("js", Table::Js), ("as", Table::As), ("ns", Table::Ns)] {
                if v[n].is_object() {
                    let m =
                        json::from_json(&proto::descriptor("EndDevice"), &v[n]).map_err(|e| e.to_string())?;
                    let k = device_key(
                        &path::string(&m, "ids.application_ids.application_id"),
                        &path::string(&m, "ids.device_id"),
                    );
                    store.put(t, &k, m).unwrap();
                }
            }
        }
    }
    if let Some(p) = application {
        let v: serde_json::Value =
            serde_json::from_str(&std::fs::read_to_string(p).map_err(|e| e.to_string())?)
                .map_err(|e| e.to_string())?;
        let a = json::from_json(&proto::descriptor("Application"), &v["application"])
            .map_err(|e| e.to_string())?;
        let id = path::string(&a, "ids.application_id");
        store.put(Table::Applications, &id, a).unwrap();
        let l =
            json::from_json(&proto::descriptor("ApplicationLink"), &v["link"]).map_err(|e| e.to_string())?;
        store.put(Table::Links, &id, l).unwrap();
    }
    Ok(())
}
#[derive(Clone)]
struct Svc(Arc<Tts>);
impl tower::Service<http::Request<axum::body::Body>> for Svc {
    type Response = http::Response<axum::body::Body>;
    type Error = std::convert::Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;
    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }
    fn call(&mut self, req: http::Request<axum::body::Body>) -> Self::Future {
        let tts = Arc::clone(&self.0);
        let p = req.uri().path().to_owned();
        Box::pin(async move {
            let Some(m) = proto::method(&p) else {
                return Ok(Status::unimplemented(p).into_http());
            };
            let mut grpc = tonic::server::Grpc::new(DynamicCodec::new(m.input()));
            Ok(grpc.unary(Unary(tts, p), req).await.map(axum::body::Body::new))
        })
    }
}
struct Unary(Arc<Tts>, String);
impl tonic::server::UnaryService<DynamicMessage> for Unary {
    type Response = DynamicMessage;
    type Future = Pin<Box<dyn Future<Output = Result<tonic::Response<DynamicMessage>, Status>> + Send>>;
    fn call(&mut self, req: tonic::Request<DynamicMessage>) -> Self::Future {
        let (tts, p) = (Arc::clone(&self.0), self.1.clone());
        Box::pin(async move {
            let m = p.rsplit('/').next().unwrap();
            let info = CallInfo {
                n: tts.n.fetch_add(1, Ordering::SeqCst) + 1,
                is_write: !(m.starts_with("Get") || m.starts_with("List")),
                method: p.clone(),
            };
            tts.calls.lock().unwrap().push(info.clone());
            let fault = tts.hooks.lock().unwrap().iter().find_map(|h| h(&info));
            if let Some(Fault::Status(c)) = fault {
                return Err(Status::new(c, "injected"));
            }
            if let Some(Fault::Delay(d)) = fault {
                tokio::time::sleep(d).await;
            }
            let (message, total) = tts.call(&p, req.get_ref())?;
            let mut r = tonic::Response::new(message);
            if let Some(t) = total {
                let md: &mut MetadataMap = r.metadata_mut();
                md.insert("x-total-count", t.to_string().parse().unwrap());
            }
            Ok(r)
        })
    }
}
pub async fn serve(tts: Arc<Tts>, listen: SocketAddr, _tls: Option<()>) -> io::Result<Served> {
    let l = tokio::net::TcpListener::bind(listen).await?;
    let addr = l.local_addr()?;
    let (tx, rx) = tokio::sync::oneshot::channel::<()>();
    let router = axum::Router::new().fallback_service(Svc(tts));
    tokio::spawn(async move {
        let _ = tonic::transport::Server::builder()
            .add_routes(tonic::service::Routes::from(router))
            .serve_with_incoming_shutdown(tokio_stream::wrappers::TcpListenerStream::new(l), async {
                let _ = rx.await;
            })
            .await;
    });
    Ok(Served { addr, stop: Some(tx) })
}
