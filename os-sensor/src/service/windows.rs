//! A service of Windows, `ThymusOsSensor`: it starts with the system, joins by itself with a token that the installer
//! left, runs the agent, and says what happens in the event log.

use crate::system::event_log::{self, EventLog};
use crate::system::{make_private, registry};
use crate::{join, run, service};
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use thymus_link::enrol::JoinError;
use windows_service::service::{
    ServiceAccess, ServiceAction, ServiceActionType, ServiceControl, ServiceControlAccept, ServiceErrorControl,
    ServiceExitCode, ServiceFailureActions, ServiceFailureResetPeriod, ServiceInfo, ServiceStartType, ServiceState,
    ServiceStatus, ServiceType,
};
use windows_service::service_control_handler::{self, ServiceControlHandlerResult, ServiceStatusHandle};
use windows_service::service_manager::{ServiceManager, ServiceManagerAccess};
use windows_service::{define_windows_service, service_dispatcher};

const NAME: &str = "ThymusOsSensor";
const DISPLAY: &str = "Thymus OS-sensor";
const DESCRIPTION: &str = "Sends single copies of this host's traffic to a Thymus vSensor.";
/// Where the installer leaves a token.
const KEY: &str = r"SOFTWARE\Thymus\OsSensor";
const TOKEN: &str = "Token";
/// Between two tries of what did not work; a step of the wait.
const AGAIN: Duration = Duration::from_secs(5);
const STEP: Duration = Duration::from_millis(100);
/// Room on disk for packets while no vSensor is there, as for `run`.
const SPOOL_BYTES: u64 = 64 << 20;
/// How long a stop may take.
const STOP_MAX: Duration = Duration::from_secs(10);

static STATE: OnceLock<PathBuf> = OnceLock::new();

define_windows_service!(enter, work);

fn said(what: &str) -> impl Fn(windows_service::Error) -> String {
    move |error| match error {
        windows_service::Error::Winapi(error) => format!("{what}: {error}; run as Administrator"),
        other => format!("{what}: {other}"),
    }
}

/// Sets the service up with this program where it is, and starts it.
pub fn install(state: &Path) -> Result<(), String> {
    make_private(state).map_err(|error| format!("{}: {error}", state.display()))?;
    let program = std::env::current_exe().map_err(|error| format!("this program cannot be found: {error}"))?;
    let access = ServiceManagerAccess::CONNECT | ServiceManagerAccess::CREATE_SERVICE;
    let manager = ServiceManager::local_computer(None::<&str>, access).map_err(said("no service manager"))?;
    let info = ServiceInfo {
        name: NAME.into(),
        display_name: DISPLAY.into(),
        service_type: ServiceType::OWN_PROCESS,
        start_type: ServiceStartType::AutoStart,
        error_control: ServiceErrorControl::Normal,
        executable_path: program,
        launch_arguments: vec!["service".into(), "--state".into(), state.into()],
        dependencies: Vec::new(),
        account_name: None,
        account_password: None,
    };
    let access = ServiceAccess::START | ServiceAccess::CHANGE_CONFIG;
    let service = manager.create_service(&info, access).map_err(said("the service cannot be set up"))?;
    service.set_description(DESCRIPTION).map_err(said("the service cannot be described"))?;
    event_log::register().map_err(|error| format!("the event log cannot be set up: {error}"))?;
    service.start::<&str>(&[]).map_err(said("the service is set up and does not start"))
}

/// Stops the service and takes it away, and with it, unless it is to stay, what the agent wrote.
pub fn uninstall(state: Option<&Path>) -> Result<(), String> {
    let manager = ServiceManager::local_computer(None::<&str>, ServiceManagerAccess::CONNECT);
    let manager = manager.map_err(said("no service manager"))?;
    let access = ServiceAccess::QUERY_STATUS | ServiceAccess::STOP | ServiceAccess::DELETE;
    let service = manager.open_service(NAME, access).map_err(said("there is no such service"))?;
    let is_stopped = || service.query_status().is_ok_and(|status| status.current_state == ServiceState::Stopped);
    if !is_stopped() {
        service.stop().map_err(said("the service does not stop"))?;
        for _ in 0..STOP_MAX.as_millis() / STEP.as_millis() {
            if is_stopped() {
                break;
            }
            std::thread::sleep(STEP);
        }
    }
    service.delete().map_err(said("the service cannot be taken away"))?;
    event_log::unregister().map_err(|error| format!("the event log: {error}"))?;
    registry::remove_key(KEY).map_err(|error| format!("the registry: {error}"))?;
    state.map_or(Ok(()), service::forget)
}

/// Runs as the service; the system's service manager calls this, and nobody else can.
pub fn serve(state: PathBuf) -> Result<(), String> {
    let log = tracing_subscriber::fmt().with_writer(EventLog).with_ansi(false).with_target(false).with_level(false);
    log.without_time().init();
    let _ = STATE.set(state);
    service_dispatcher::start(NAME, enter).map_err(|error| {
        format!("only the service manager starts this: {error}; use 'thymus-os-sensor install', or 'run'")
    })
}

fn work(_arguments: Vec<OsString>) {
    let (stop, Some(state)) = (Arc::new(AtomicBool::new(false)), STATE.get()) else { return };
    let told = Arc::clone(&stop);
    let hear = move |control| match control {
        ServiceControl::Stop | ServiceControl::Shutdown | ServiceControl::Preshutdown => {
            told.store(true, Ordering::Release);
            ServiceControlHandlerResult::NoError
        }
        ServiceControl::Interrogate => ServiceControlHandlerResult::NoError,
        _ => ServiceControlHandlerResult::NotImplemented,
    };
    let handle = match service_control_handler::register(NAME, hear) {
        Ok(handle) => handle,
        Err(error) => return tracing::error!("the service manager does not hear us: {error}"),
    };
    show(handle, ServiceState::Running);
    restart_after_a_crash();
    tracing::info!("{DISPLAY} {} has started", env!("CARGO_PKG_VERSION"));
    let mut last = String::new();
    while !stop.load(Ordering::Acquire) {
        let Err(why) = join_by_token(state).and_then(|()| run::run(state, SPOOL_BYTES, &stop)) else { continue };
        if why != last {
            tracing::error!("{why}; tried again every {} s", AGAIN.as_secs());
            last = why;
        }
        for _ in 0..AGAIN.as_millis() / STEP.as_millis() {
            if stop.load(Ordering::Acquire) {
                break;
            }
            std::thread::sleep(STEP);
        }
    }
    tracing::info!("{DISPLAY} has stopped");
    show(handle, ServiceState::Stopped);
}

fn show(handle: ServiceStatusHandle, current_state: ServiceState) {
    let takes = ServiceControlAccept::STOP | ServiceControlAccept::SHUTDOWN;
    let running = current_state == ServiceState::Running;
    let shown = handle.set_service_status(ServiceStatus {
        service_type: ServiceType::OWN_PROCESS,
        current_state,
        controls_accepted: if running { takes } else { ServiceControlAccept::empty() },
        exit_code: ServiceExitCode::Win32(0),
        checkpoint: 0,
        wait_hint: Duration::ZERO,
        process_id: None,
    });
    if let Err(error) = shown {
        tracing::error!("the service manager does not take our state: {error}");
    }
}

/// The installer cannot say this, so the service says it of itself.
fn restart_after_a_crash() {
    let action = ServiceAction { action_type: ServiceActionType::Restart, delay: Duration::from_secs(5) };
    let actions = ServiceFailureActions {
        reset_period: ServiceFailureResetPeriod::After(Duration::from_secs(600)),
        reboot_msg: None,
        command: None,
        actions: Some(vec![action.clone(), action.clone(), action]),
    };
    let set = ServiceManager::local_computer(None::<&str>, ServiceManagerAccess::CONNECT)
        .and_then(|manager| manager.open_service(NAME, ServiceAccess::CHANGE_CONFIG | ServiceAccess::START))
        .and_then(|service| service.update_failure_actions(actions));
    if let Err(error) = set {
        tracing::warn!("a crash would not start the service again: {error}");
    }
}

/// Joins where there is a token and no identity yet. The token leaves the registry, where every user reads it, at once.
fn join_by_token(state: &Path) -> Result<(), String> {
    let file = state.join("token");
    if let Some(token) = registry::text(KEY, TOKEN) {
        make_private(state).map_err(|error| format!("{}: {error}", state.display()))?;
        std::fs::write(&file, token).map_err(|error| format!("{}: {error}", file.display()))?;
        registry::remove_value(KEY, TOKEN).map_err(|error| format!("the token stays in the registry: {error}"))?;
    }
    if state.join("identity.toml").exists() {
        let _ = std::fs::remove_file(file);
        return Ok(());
    }
    let token = std::fs::read_to_string(&file).map_err(|_error| {
        "this host has not joined yet: run 'thymus-os-sensor join TOKEN' as Administrator".to_owned()
    })?;
    match join::join(&token, state) {
        Ok(identity) => {
            tracing::info!("joined as agent {} in group {}", identity.sensor.0, identity.group);
            let _ = std::fs::remove_file(file);
            Ok(())
        }
        Err(error @ (JoinError::Unreachable(..) | JoinError::Broken(_))) => Err(error.to_string()),
        Err(error) => {
            let _ = std::fs::remove_file(file);
            Err(format!("{error}; then run 'thymus-os-sensor join TOKEN' as Administrator"))
        }
    }
}
