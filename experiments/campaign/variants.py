"""scratch: variants of the likelihood stage on one device."""
import sys, time, argparse, numpy as np, torch, torch.nn.functional as F, copy
from earvae.model.vae import EarVAE
from earvae.model.transform import mid_side
from earvae.model.compact import compressed, LEVEL_RANGE, fit_linear_start
from earvae.config import AugmentationConfig, CompactConfig
from earvae.training.augment import draw_changes, make_changes
ap=argparse.ArgumentParser()
ap.add_argument('--name'); ap.add_argument('--init'); ap.add_argument('--out',required=True); ap.add_argument('--audio',required=True)
ap.add_argument('--device',default='cuda'); ap.add_argument('--mdct',type=int,default=512)
ap.add_argument('--loss',default='share'); ap.add_argument('--fine',action='store_true')
ap.add_argument('--seconds',type=float,default=60); ap.add_argument('--batch',type=int,default=64)
ap.add_argument('--crop',type=int,default=65536); ap.add_argument('--lr',type=float,default=1e-3)
ap.add_argument('--kl',type=float,default=1e-3); ap.add_argument('--share',type=float,default=3.0); ap.add_argument('--mask',type=float,default=.03)
ap.add_argument('--val')
ap.add_argument('--log',type=int,default=200)
a=ap.parse_args()
dev=torch.device(a.device); torch.manual_seed(0); rng=np.random.default_rng(0); torch.set_num_threads(2)
torch.backends.cuda.matmul.allow_tf32=True
x=np.load(a.audio,mmap_mode='r'); 
xt=torch.from_numpy(np.ascontiguousarray(x)).to(dev) # [n,2] int16
def crops(b):
    i=rng.integers(0,len(x)-a.crop,b)
    c=torch.stack([xt[j:j+a.crop] for j in i]).transpose(1,2).float()/32768
    return make_changes(c,[draw_changes(aug,rng) for _ in i],44100)
aug=AugmentationConfig(gain_db=(-12,6),swap_channels=.5,flip_polarity=.5,bass_db=(-3,9),equaliser_db=2.0,width_db=(-6,3),limit=.4)
if a.init: vae=EarVAE.from_pretrained(a.init)
else:
    vae=EarVAE(CompactConfig(mdct_length=a.mdct))
    fit_linear_start(vae.encoder,vae.decoder,(crops(8).cpu() for _ in range(120)))
vae=vae.train().to(dev)
D=vae.decoder; E=vae.encoder
if a.fine:
    torch.manual_seed(1); D.texture=torch.nn.Linear(512,D.transform.features).to(dev)
    with torch.no_grad(): D.texture.weight.mul_(.1); D.texture.bias.fill_(-1.)
Q2=1e-8
W=D.bands.weights; blocks=D.bands.blocks; half=blocks//2
f=(torch.arange(W.shape[1],device=dev)+.5)*22050/W.shape[1]
wc=1/(24.7*(4.37*f/1000+1)); wc=(wc/wc.sum()).repeat(half)/half   # per coefficient of an ear
Wn=(W/W.sum(1,keepdim=True)).T
def smooth(p): # band power, spread again, [..., hop]
    return ((p.unflatten(-1,(half,-1))@Wn)@W).flatten(-2)
def terms(lat,frames):
    z=lat.transpose(1,2)
    with torch.autocast(dev.type,dtype=torch.bfloat16):
        h=D.norm(D.blocks(D.input(torch.cat([z,compressed(z,.1)],2))))
        sh,tx,lv=D.shape(h),D.texture(h),D.level(h)
    sh,tx,lv=sh.float(),tx.float(),lv.float()
    t=lambda y: LEVEL_RANGE*torch.tanh(y/LEVEL_RANGE)
    lev=D.bands.spread(t(lv)); tex=t(tx) if a.fine else D.bands.spread(t(tx))
    e=lev.exp()
    mean=D.linear(z)+mid_side(mid_side(sh,-1)*e,-1)
    target=mid_side(frames,-1)
    r0=target-mid_side(mean,-1)
    tl,tr=target.square().chunk(2,-1); PL,PR=smooth(tl),smooth(tr)
    FL=a.mask*PL+Q2; FR=a.mask*PR+Q2
    floor=.03*(PL+PR)+1e-6
    rl2,rr2=r0.square().chunk(2,-1)
    if a.loss=='share': mean_loss=(rl2/(PL+floor)+rr2/(PR+floor))
    elif a.loss=='log':
        mean_loss=((1+smooth(rl2)/(.1*PL+floor)).log()+(1+smooth(rr2)/(.1*PR+floor)).log())/2.4
    r=r0 if a.loss=='nll' else r0.detach()
    u=mid_side(r/e,-1); um,us=u.square().chunk(2,-1)
    m,s=(2*tex).exp().chunk(2,-1); el,er=e.square().chunk(2,-1)
    rl,rr=r.square().chunk(2,-1)
    ee=el*er; LL=el*(m+s)/2; RR=er*(m+s)/2
    det=ee*m*s+FL*RR+FR*LL+FL*FR
    num=ee*(m*us+s*um)+FR*(rl+LL)+FL*(rr+RR)+2*FL*FR
    num=ee*(m*us+s*um)+FR*rl+FL*rr+FL*RR+FR*LL+2*FL*FR
    q=num/det; q=torch.where(q>50,50+50*(q.clamp_min(50)/50).log(),q)
    v=.5*(det.log()+q)
    nll=(v*wc).sum(-1).mean()
    ml=nll*0 if a.loss=='nll' else (mean_loss*wc).sum(-1).mean()/2
    return nll,ml
opt=torch.optim.AdamW(vae.parameters(),lr=a.lr,betas=(.8,.95),fused=dev.type=='cuda')
ema=copy.deepcopy(vae)
t0=time.time(); k=0; acc=[]
while True:
    el=time.time()-t0; fr=el/a.seconds
    if fr>=1: break
    lr=a.lr*min(1,(k+1)/100)*(.5+.5*np.cos(np.pi*fr))
    for g in opt.param_groups: g['lr']=lr
    b=crops(a.batch)
    fr_=E.transform(b)
    with torch.autocast(dev.type,dtype=torch.bfloat16): p=E(b)
    mu,sc=p.float().chunk(2,1); std=F.softplus(sc)
    z=mu+std*torch.randn_like(std)
    l,v=terms(z,fr_)
    kl=(mu**2+std**2-torch.log(std**2+1e-6)-1).mean((0,2)).sum()
    loss=l+a.share*v+a.kl*kl
    opt.zero_grad(); loss.backward(); gn=torch.nn.utils.clip_grad_norm_(vae.parameters(),1.0,foreach=True)
    if k%20==19 and not torch.isfinite(gn): print('NOT FINITE',k); break
    opt.step()
    with torch.no_grad():
        d=min(.998,(k+1)/(k+10))
        torch._foreach_lerp_(list(ema.parameters()),list(vae.parameters()),1-d)
    k+=1
    if k%20==0: acc.append(torch.stack([l,v,kl,std.mean(),mu.std(),gn]).detach())
    if k%a.log==0: print(a.name,k,f'{el:.0f}s',f'{k*a.batch*a.crop/44100/el:.0f} a-s/s',np.round(torch.stack(acc[-10:]).mean(0).cpu().numpy(),4).tolist(),flush=True)
print(a.name,'done',k,flush=True)
ema.eval().float()
def gain_of(dec):
    def gain(x):
        lv=LEVEL_RANGE*torch.tanh(x.float()/LEVEL_RANGE)
        return (lv if lv.shape[-1]==dec.transform.features else dec.bands.spread(lv)).exp()
    return gain
if a.fine:
    ema.decoder._gain=gain_of(ema.decoder)
    sd={n:v.half() for n,v in ema.cpu().state_dict().items()}
    import safetensors.torch, os
    os.makedirs(a.out,exist_ok=True); safetensors.torch.save_file({n:v.contiguous() for n,v in sd.items()},a.out+'/model.safetensors')
else: ema.cpu().save_pretrained(a.out,dtype=torch.float16)
# figures
import glob, soundfile as sf, statistics
from earvae.evaluation.metrics.signal import Signal
from earvae.evaluation.metrics.octaves import octave_figures
from earvae.evaluation.metrics.lines import line_figures
from earvae.evaluation.metrics.panning import panning_figures
from earvae.evaluation.metrics.published import published_figures
from earvae.evaluation.metrics.repetition import repetition_figures
torch.set_num_threads(3)
ema.to(dev)
rows={}
for p in sorted(glob.glob(a.val+'/*')):
    y,_=sf.read(p,dtype='float32',always_2d=True); y=torch.from_numpy(y.T.copy())[None]
    with torch.no_grad(): out,_=ema(y.to(dev))
    out=out.cpu()[0]; y=y[0]
    R,T=Signal(out),Signal(y)
    for fn in (octave_figures,line_figures,panning_figures,published_figures,repetition_figures):
        try:
            for n_,v_ in fn(R,T).items():
                if isinstance(v_,(int,float)): rows.setdefault(n_,[]).append(v_)
        except Exception as err: rows.setdefault(fn.__name__+str(err)[:50],[]).append(0)
print(a.name,'FIG',{n_:round(statistics.median([v for v in vs if v is not None]),3) for n_,vs in rows.items()},flush=True)
